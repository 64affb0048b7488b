"""`sbx-actor check`: whether a topology is valid, and what is doubtful about it."""

import click

from scalebox_actors.cli import topologies
from scalebox_actors.cli.options import Common, common, parameterised
from scalebox_actors.cli.output import line, record, say
from scalebox_actors.cli.show import plural
from scalebox_actors.errors import BadInput


@click.command()
@click.argument("topology")
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@parameterised
@common
def check(
    common: Common, topology: str, strict: bool, sets: tuple[str, ...], env_files: tuple[str, ...]
) -> None:
    """Say whether TOPOLOGY, a YAML file, is valid.

    Every error and warning is a line `path:line:col: message` on standard error.

    \b
    sbx-actor check topology.yaml --set IMAGE=sbx/primes:2
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    try:
        loaded = topologies.load(topology, sets, env_files)
    except BadInput as error:
        if common.json:
            errors = [_fields(one) for one in error.errors or (error,)]
            record({"ok": False, "errors": errors, "warnings": []})
        raise
    for warning in loaded.warnings:
        say(warning)
    found = loaded.topology
    if common.json:
        ok = not (strict and loaded.warnings)
        fields = {"ok": ok, "topology": found.name, "modules": list(found.modules)}
        record({**fields, "errors": [], "warnings": list(loaded.warnings)})
    else:
        line(f"{topology}: {found.name} is valid, {plural(len(found.modules), 'module')}")
    if strict and loaded.warnings:
        raise BadInput(f"{plural(len(loaded.warnings), 'warning')} (--strict)")


def _fields(error: BadInput) -> dict[str, object]:
    place = {"path": error.path, "line": error.line, "column": error.column}
    return {**place, "message": error.message}
