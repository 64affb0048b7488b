"""`sbx-actor schema`: the JSON Schema of topologies, for editors that complete and check."""

import click
import msgspec

from scalebox_actors.cli.options import Common, common
from scalebox_actors.cli.output import lines, record
from scalebox_actors.topology.schema import schema as topology_schema


@click.command()
@common
def schema(common: Common) -> None:
    """Print the JSON Schema of topology files.

    With `--json` it is printed on one line.

    \b
    sbx-actor schema > topology.schema.json
    # first line of a topology, for editors with a YAML language server:
    # yaml-language-server: $schema=topology.schema.json
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    if common.json:
        record(topology_schema())
    else:
        lines(msgspec.json.format(msgspec.json.encode(topology_schema()), indent=2).decode())
