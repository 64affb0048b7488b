"""`sbx-actor check`: whether topologies are valid, and what is doubtful about them."""

import click

from scalebox_actors.cli.options import Common, common, parameterised, texts
from scalebox_actors.cli.output import line, record, say
from scalebox_actors.cli.room import never_fit, sized, sizes_of
from scalebox_actors.cli.show import plural
from scalebox_actors.cli.topologies import load
from scalebox_actors.errors import BadInput
from scalebox_actors.topology.model import Topology


@click.command()
@click.argument("topologies", metavar="TOPOLOGY...", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@sized
@parameterised
@common
def check(common: Common, /, topologies: tuple[str, ...], strict: bool, **given: object) -> None:
    """Say of each TOPOLOGY, a YAML file, whether it is valid.

    Every error and warning is a line `path:line:col: message` on standard error. With the size of
    a node: warns also of modules that such a node can never run.

    \b
    sbx-actor check topology.yaml --set IMAGE=sbx/primes:2
    sbx-actor check topology.yaml --cpus 16 --memory 64GiB --gpus 0-3
    sbx-actor check examples/*/topology.yaml
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    sizes = sizes_of(given)
    sources = texts(given["sets"]), texts(given["env_files"])
    errors: dict[str, BadInput] = {}
    doubtful = 0
    for path in topologies:
        try:
            loaded = load(path, *sources)
            large = never_fit(loaded.topology, sizes.room) if sizes.given else {}
        except BadInput as error:
            found = error.errors or (error,)
            errors |= {str(one): one for one in found}
            if common.json:
                record({"ok": False, "errors": [_fields(one) for one in found], "warnings": []})
            continue
        warnings = [
            *loaded.warnings,
            *(f"{path}: warning: module {name}: {why}" for name, why in large.items()),
        ]
        doubtful += len(warnings)
        _tell(common, path, loaded.topology, warnings, ok=not (strict and warnings))
    if strict and doubtful:
        strictly = BadInput(f"{plural(doubtful, 'warning')} (--strict)")
        errors[str(strictly)] = strictly
    if errors:
        first = next(iter(errors.values()))
        first.errors = tuple(errors.values())
        raise first


def _tell(common: Common, path: str, found: Topology, warnings: list[str], *, ok: bool) -> None:
    """Tell of a file that was loaded."""
    for warning in warnings:
        say(warning)
    if common.json:
        fields = {"ok": ok, "topology": found.name, "modules": list(found.modules)}
        record({**fields, "errors": [], "warnings": warnings})
    else:
        line(f"{path}: {found.name} is valid, {plural(len(found.modules), 'module')}")


def _fields(error: BadInput) -> dict[str, object]:
    place = {"path": error.path, "line": error.line, "column": error.column}
    return {**place, "message": error.message}
