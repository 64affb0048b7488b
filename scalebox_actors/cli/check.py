"""`sbx-actor check`: whether a topology is valid, and what is doubtful about it."""

import click

from scalebox_actors.cli import topologies
from scalebox_actors.cli.options import Common, common, parameterised, texts
from scalebox_actors.cli.output import line, record, say
from scalebox_actors.cli.room import never_fit, sized, sizes_of
from scalebox_actors.cli.show import plural
from scalebox_actors.errors import BadInput


@click.command()
@click.argument("topology")
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@sized
@parameterised
@common
def check(common: Common, /, topology: str, strict: bool, **given: object) -> None:
    """Say whether TOPOLOGY, a YAML file, is valid.

    Every error and warning is a line `path:line:col: message` on standard error. With the size of
    a node: warns also of modules that such a node can never run.

    \b
    sbx-actor check topology.yaml --set IMAGE=sbx/primes:2
    sbx-actor check topology.yaml --cpus 16 --memory 64GiB --gpus 0-3
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    sizes = sizes_of(given)
    try:
        loaded = topologies.load(topology, texts(given["sets"]), texts(given["env_files"]))
    except BadInput as error:
        if common.json:
            errors = [_fields(one) for one in error.errors or (error,)]
            record({"ok": False, "errors": errors, "warnings": []})
        raise
    found = loaded.topology
    large = never_fit(found, sizes.room) if sizes.given else {}
    warnings = [
        *loaded.warnings,
        *(f"{topology}: warning: module {name}: {why}" for name, why in large.items()),
    ]
    for warning in warnings:
        say(warning)
    if common.json:
        ok = not (strict and warnings)
        fields = {"ok": ok, "topology": found.name, "modules": list(found.modules)}
        record({**fields, "errors": [], "warnings": warnings})
    else:
        line(f"{topology}: {found.name} is valid, {plural(len(found.modules), 'module')}")
    if strict and warnings:
        raise BadInput(f"{plural(len(warnings), 'warning')} (--strict)")


def _fields(error: BadInput) -> dict[str, object]:
    place = {"path": error.path, "line": error.line, "column": error.column}
    return {**place, "message": error.message}
