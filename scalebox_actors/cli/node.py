"""`sbx-actor node`: this host's actors, for as long as the service manager wants them."""

import logging
from contextlib import AsyncExitStack

import click

from scalebox_actors.clerk import Clerk
from scalebox_actors.cli import logbook, mainloop
from scalebox_actors.cli.credentials import may_answer
from scalebox_actors.cli.host import (
    Host,
    ceiling,
    host_name,
    host_of,
    opened_runtime,
    operated,
    settings,
    work_base,
)
from scalebox_actors.cli.interrupts import TERMINATED, minded
from scalebox_actors.cli.options import Common, parameterised, reaching, texts
from scalebox_actors.cli.session import Wanted, opened, wanted
from scalebox_actors.namelock import held_names
from scalebox_actors.names import check_name
from scalebox_actors.node import Node
from scalebox_actors.spec import check_ceiling

log = logging.getLogger(__name__)


@click.command()
@click.argument("topology")
@click.option("--name", help="This node's name; it keeps its runs by it.  [default: the host's]")
@click.option("--log-json", is_flag=True, help="Log as lines of JSON.")
@operated
@parameterised
@reaching
def node(common: Common, /, **given: object) -> None:
    """Run this host's actors of TOPOLOGY, a YAML file or the name of a deployed one.

    A file is deployed first: its streams and consumers are made as they are needed. SIGTERM ends
    the node within 30 s with exit code 0: what is finished is committed, containers run on and
    are taken over by the next node of this name. Ctrl-C drains.

    \b
    sbx-actor node topology.yaml --name n07 --nats nats://hub:4222 --mount-root data=/data:rw
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    host = host_of(given)
    want = wanted(str(given["topology"]), texts(given["sets"]), texts(given["env_files"]))
    name = check_name("node", str(given["name"] or host_name()))
    limits = ceiling(host)
    if want.loaded is not None:
        check_ceiling(want.loaded.topology, limits)
    level = logging.DEBUG if common.verbose else logging.INFO
    logbook.start(json=bool(given["log_json"]) or common.json, level=level)
    raise click.exceptions.Exit(mainloop.run(_node(common, host, want, name)))


async def _node(common: Common, host: Host, want: Wanted, name: str) -> int:
    """Return the exit code of a node that has ended."""
    async with AsyncExitStack() as stack:
        base = stack.enter_context(work_base(host, common.store_of(want.name)))
        alone = held_names(base, want.name, [name])
        if want.loaded is not None:
            stack.enter_context(alone)  # who is refused deploys nothing
        session = await stack.enter_async_context(opened(common, want, deploy=True))
        if want.loaded is None:  # a folder for its lock would look like a store with a topology
            stack.enter_context(alone)
        own = settings(host, name, base, url=common.nats or "", folder=want.folder)
        part = session.topology.part(session.names.site)
        runtime = await stack.enter_async_context(opened_runtime(host, part, own, isolated=True))
        if want.loaded is None:
            await session.site.join(session.topology)
        actors = Node(session.topology, session.broker, runtime, own)
        if may_answer(common):
            await Clerk(session.site, session.broker, session.topology).serve(name)
        kind = runtime.kind if runtime else "none"
        modules = ",".join(actors.actors)
        told = {"node": name, "site": session.names.site, "runtime": kind, "modules": modules}
        log.info("node_started", extra=told)
        with minded(actors) as interrupts:
            await actors.run()
        log.info("node_ended", extra={"node": name})
    return 0 if interrupts.exit_code in (0, TERMINATED) else interrupts.exit_code
