"""`sbx-actor run`: a server, a node and messages in one command, until all is worked off."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import click
import msgspec

from scalebox_actors.clerk import Clerk
from scalebox_actors.cli import mainloop, output
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
from scalebox_actors.cli.interrupts import Interrupts, minded
from scalebox_actors.cli.live import Progress
from scalebox_actors.cli.options import Common, parameterised, reaching, texts
from scalebox_actors.cli.progress import farewell
from scalebox_actors.cli.sending import Sending
from scalebox_actors.cli.session import home, reach_of
from scalebox_actors.cli.show import plural, shortened, text_of
from scalebox_actors.cli.stored import letter_fields, result_fields
from scalebox_actors.cli.topologies import Loaded, check_module, load
from scalebox_actors.errors import BadInput, BadMessage, SbxError
from scalebox_actors.limits import NAME_LENGTH
from scalebox_actors.local import Ending, Post, Site, open_sites, until_drained
from scalebox_actors.namelock import held_names
from scalebox_actors.names import check_name
from scalebox_actors.node import Node
from scalebox_actors.pool import Pool
from scalebox_actors.spec import check_ceiling
from scalebox_actors.strays import refuse_strays
from scalebox_actors.topology.model import Topology

LETTERS_SHOWN = 5
LEFT_SECONDS = 3.0


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What was typed beside the topology and the operator's options."""

    sends: tuple[tuple[str, str], ...] = ()
    ephemeral: bool = False
    keep: bool = False
    name: str | None = None


@click.command()
@click.argument("topology")
@click.option("--send", "sends", nargs=2, multiple=True, metavar="MODULE BODY",
              help="Send this message first; repeatable.")  # fmt: skip
@click.option("--ephemeral", is_flag=True, help="Keep nothing on disk: for demonstrations.")
@click.option("--keep", is_flag=True, help="Go on waiting for messages when all is worked off.")
@click.option("--name", help="The node's name; it keeps its runs by it.  [default: the host's]")
@operated
@parameterised
@reaching
def run(common: Common, /, **given: object) -> None:
    """Run TOPOLOGY, a YAML file, until nothing waits, and print its results, one per line.

    Starts a server unless one is there or given, and a node on this host; of several sites each
    gets its own server and node, joined by real leaf links. What a run leaves
    undone is kept: the same command goes on with it. Ctrl-C finishes what runs and ends, a
    second one stops it. Exit code 1: tasks failed for good, or nothing could go on.

    \b
    sbx-actor run examples/primes/topology.yaml --send split 100000
    sbx-actor run topology.yaml --runtime process --ephemeral --send split 7
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    host = host_of(given)
    sets, env_files = given.pop("sets"), given.pop("env_files")
    loaded = load(str(given.pop("topology")), texts(sets), texts(env_files))
    wishes = msgspec.convert(given, Wishes)
    if common.nats and len(loaded.topology.site_names) > 1:
        raise BadInput("`run` starts the servers of all sites itself; for --nats use `node`")
    for module, _ in wishes.sends:
        check_module(loaded.topology, module)
    check_ceiling(loaded.topology, ceiling(host))
    for warning in loaded.warnings if common.verbose else ():
        output.say(warning)
    raise click.exceptions.Exit(mainloop.run(_run(common, host, loaded, wishes)))


async def _run(common: Common, host: Host, loaded: Loaded, wishes: Wishes) -> int:
    """Return the exit code of a run."""
    topology = loaded.topology
    names = _names(topology, wishes.name)
    reach = reach_of(common, topology.name, start=True, ephemeral=wishes.ephemeral)
    async with AsyncExitStack() as stack:
        base = stack.enter_context(work_base(host, reach.store, ephemeral=wishes.ephemeral))
        stack.enter_context(held_names(base, topology.name, names.values()))
        await refuse_strays(topology, reach)
        sites = await stack.enter_async_context(open_sites(topology, reach))
        here = sites[home(common.site, tuple(sites))]
        posts = []
        pool = Pool(host.sizes.room)  # all nodes of this process are on one host
        await asyncio.gather(*(site.deploy(topology) for site in sites.values()))
        for site in sites.values():
            name = names[site.names.site]
            own = settings(host, name, base, url=common.nats or "", folder=loaded.folder)
            part = topology.part(site.names.site)
            runtime = await stack.enter_async_context(
                opened_runtime(host, part, own, isolated=False)
            )
            broker = await site.broker()
            node = Node(topology, broker, runtime, own, pool)
            posts.append(Post(site=site, node=node, broker=broker))
            await Clerk(site, broker, topology).serve(own.name)
        before = {site.names.site: await site.admin.last_sequence() for site in sites.values()}
        await _send(here, topology, wishes)
        ending, interrupts = await _watched(topology.name, posts, wishes)
        for site in sites.values():
            await _print_results(site, before[site.names.site], by_record=common.json)
        if ending is None:
            return await _cut_short(topology, tuple(sites.values()), interrupts)
        return await _verdict(topology, tuple(sites.values()), ending, before)


def _names(topology: Topology, wish: str | None) -> dict[str, str]:
    """Return how the node of each site is called; of several on one host, each has its own name."""
    name, sites = check_name("node", wish or host_name()), topology.site_names
    if len(sites) == 1:
        return {sites[0]: name}
    return {site: f"{site}-{name}"[:NAME_LENGTH] for site in sites}


async def _watched(
    name: str, posts: Sequence[Post], wishes: Wishes
) -> tuple[Ending | None, Interrupts]:
    """Let nodes work until all is done or somebody interrupts; None if it was cut short."""
    nodes = [post.node for post in posts]
    leave_runs = not wishes.ephemeral
    with Progress(name) as progress, minded(*nodes, leave_runs=leave_runs) as interrupts:
        works = [asyncio.create_task(node.run()) for node in nodes]
        while True:
            watch = asyncio.create_task(until_drained(posts, progress.see))
            await asyncio.wait({*works, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not wishes.keep or any(work.done() for work in works):
                break
            watch.result()
        ending = None
        if watch.done():
            ending = watch.result()
            for node in nodes:
                await node.drain() if not ending.stuck else node.stop()
        elif not interrupts.exit_code:
            for node in nodes:  # one of them failed: the others go with it
                node.stop()
        watch.cancel()
        await asyncio.gather(*works)
    return ending, interrupts


async def _verdict(
    topology: Topology, sites: Sequence[Site], ending: Ending, before: Mapping[str, int]
) -> int:
    """Say how it ended and return the exit code that says the same."""
    output.say(farewell(topology.name, ending.modules, ending.seconds))
    if ending.dead:
        for site in sites:
            await _tell_of_letters(site, before[site.names.site])
        output.say(f"see `sbx-actor dead list {topology.name}`")
    if ending.stuck:
        output.say(f"nothing can go on: {ending.stuck}")
    if ending.open_groups:
        output.say(f"{plural(ending.open_groups, 'group')} still without all members")
    return 1 if ending.dead or ending.stuck or ending.open_groups else 0


async def _cut_short(topology: Topology, sites: Sequence[Site], interrupts: Interrupts) -> int:
    left = ", ".join([await _left(site, topology) for site in sites])
    output.say(f"{topology.name}: ended early; {left}")
    return interrupts.exit_code or 1


async def _left(site: Site, topology: Topology) -> str:
    """Say how much is left undone at a site, if its server still answers."""
    try:
        async with asyncio.timeout(LEFT_SECONDS):
            modules = topology.modules_at(site.names.site)
            backlogs = [await site.admin.backlog(name) for name in modules]
            leaving = sum((await site.outgoing()).values())
    except TimeoutError:
        return "the server does not answer; what was accepted is kept"
    left = leaving + sum(backlog.waiting + backlog.in_hand for backlog in backlogs)
    where = f" at {site.names.site}" if len(topology.site_names) > 1 else ""
    return f"{plural(left, 'message')} left{where}"


async def _send(site: Site, topology: Topology, wishes: Wishes) -> None:
    broker = await site.broker()
    entries = []
    for module, body in wishes.sends:
        sending = Sending(
            names=site.names, topology=topology, module=module, body_limit=broker.body_limit
        )
        try:
            entries.append(sending.entry(body.encode("utf-8", "surrogateescape")))
        except BadMessage as error:
            raise BadInput(f"--send {module}: {error}") from None
    injected = await broker.inject(entries)
    for place, reason in injected.refused:
        raise SbxError(f"--send {wishes.sends[place][0]}: not taken by the server: {reason}")


async def _print_results(site: Site, after: int, *, by_record: bool) -> None:
    """Print the results that came since; they stay where they are until they are taken."""
    async for page in site.admin.messages(site.names.result("*"), start=after + 1):
        for stored in page:
            if by_record:
                output.record(result_fields(stored))
            else:
                output.line(text_of(stored.body))
    output.flush()


async def _tell_of_letters(site: Site, after: int) -> None:
    """Name some of the letters that were written since; older ones are not this run's."""
    pattern = site.names.dead("*", "*")
    pages = site.admin.messages(pattern, start=after + 1, most=LETTERS_SHOWN)
    async for page in pages:
        for stored in page:
            letter = letter_fields(stored)
            last = str(letter["log"]).rpartition("\n")[2]
            why = ": ".join(filter(None, (str(letter["reason"]), str(letter["detail"]), last)))
            output.say(f"  {letter['module']} {letter['id']}: {shortened(why, 200)}")
