"""`sbx-actor drain`: nodes that finish what they run and then end."""

import asyncio
import logging

import click
import msgspec

from scalebox_actors.cli import output
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.session import opened, wanted
from scalebox_actors.errors import BadInput, Unavailable
from scalebox_actors.names import is_name

log = logging.getLogger(__name__)


@click.command()
@click.argument("topology")
@click.argument("node", required=False)
@reaching
def drain(common: Common, topology: str, node: str | None) -> None:
    """Let NODE, or every node of TOPOLOGY, take no more messages, finish what runs, and end.

    With --nats: the nodes of that site.

    \b
    sbx-actor drain primes n07
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    want = wanted(topology)
    if node is not None and not is_name(node):
        raise BadInput(f"node {node[:80]!r} is not a name")

    async def work() -> list[str]:
        async with opened(common, want) as session:
            answers = []
            for site in session.near.values():
                site.link.events = _server_may_end
                answers += await (await site.broker()).ask("drain", (node or "").encode())
        names = {msgspec.json.decode(answer, type=str) for answer in answers}
        return sorted(name for name in names if name)

    nodes = asyncio.run(work())
    if not nodes:
        raise Unavailable(f"node {node} does not answer" if node else "no node answers")
    for name in nodes:
        if common.json:
            output.record({"node": name, "draining": True})
        else:
            output.line(f"{name}: draining")


def _server_may_end(event: str, detail: str) -> None:
    """Take no notice of a lost link: a server ends with the node that started it.

    If it was lost before anybody answered, that is the error which the question ends with.
    """
    log.debug(event, extra={"why": detail})
