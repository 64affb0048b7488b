"""`sbx-actor run`: a server, a node and messages in one command, until all is worked off."""

import asyncio

import click
import msgspec
import uvloop

from scalebox_actors.cli import output
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
from scalebox_actors.cli.outbox import Outbox
from scalebox_actors.cli.progress import farewell
from scalebox_actors.cli.session import reached
from scalebox_actors.cli.show import plural, shortened, text_of
from scalebox_actors.cli.stored import letter_fields, result_fields
from scalebox_actors.cli.topologies import Loaded, check_module, load
from scalebox_actors.errors import BadInput, BadMessage, SbxError
from scalebox_actors.local import Ending, Site, until_drained
from scalebox_actors.names import Names
from scalebox_actors.node import Node
from scalebox_actors.spec import check_ceiling
from scalebox_actors.topology.model import Topology

LETTERS_SHOWN = 5
LEFT_SECONDS = 3.0


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What was typed beside the topology and the operator's options."""

    sends: tuple[tuple[str, str], ...] = ()
    ephemeral: bool = False
    keep: bool = False


@click.command()
@click.argument("topology")
@click.option("--send", "sends", nargs=2, multiple=True, metavar="MODULE BODY",
              help="Send this message first; repeatable.")  # fmt: skip
@click.option("--ephemeral", is_flag=True, help="Keep nothing on disk: for demonstrations.")
@click.option("--keep", is_flag=True, help="Go on waiting for messages when all is worked off.")
@operated
@parameterised
@reaching
def run(common: Common, /, **given: object) -> None:
    """Run TOPOLOGY, a YAML file, until nothing waits, and print its results, one per line.

    Starts a server unless one is there or given, and a node on this host. What a run leaves
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
    for module, _ in wishes.sends:
        check_module(loaded.topology, module)
    check_ceiling(loaded.topology, ceiling(host))
    for warning in loaded.warnings if common.verbose else ():
        output.say(warning)
    raise click.exceptions.Exit(uvloop.run(_run(common, host, loaded, wishes)))


async def _run(common: Common, host: Host, loaded: Loaded, wishes: Wishes) -> int:
    """Return the exit code of a run."""
    topology = loaded.topology
    names = Names(topology.name)
    store = common.store_of(topology.name)
    ephemeral = wishes.ephemeral
    with work_base(host, store, ephemeral=ephemeral) as base:
        own = settings(host, host_name(), base, url=common.nats or "", folder=loaded.folder)
        async with (
            opened_runtime(host, topology, own) as runtime,
            reached(common, names, start=True, ephemeral=ephemeral) as site,
        ):
            await site.deploy(topology)
            node = Node(topology, await site.broker(), runtime, own)
            before = await _last_sequence(site)
            await _send(site, topology, wishes)
            ending, interrupts = await _watched(site, node, wishes)
            await _print_results(site, before, by_record=common.json)
            return await _verdict(site, topology, ending, interrupts)


async def _watched(site: Site, node: Node, wishes: Wishes) -> tuple[Ending | None, Interrupts]:
    """Let a node work until all is done or somebody interrupts; None if it was cut short."""
    broker = await site.broker()
    leave_runs = not wishes.ephemeral
    with (
        Progress(node.topology.name) as progress,
        minded(node, leave_runs=leave_runs) as interrupts,
    ):
        work = asyncio.create_task(node.run())
        watch = asyncio.create_task(until_drained(node, broker, progress.see))
        while wishes.keep and not work.done():
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done() and not work.done():
                watch.result()
                watch = asyncio.create_task(until_drained(node, broker, progress.see))
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        ending = None
        if watch.done():
            ending = watch.result()
            await node.drain() if not ending.stuck else node.stop()
        watch.cancel()
        await work
    return ending, interrupts


async def _verdict(
    site: Site, topology: Topology, ending: Ending | None, interrupts: Interrupts
) -> int:
    """Say how it ended and return the exit code that says the same."""
    if ending is None:
        output.say(f"{topology.name}: ended early; {await _left(site, topology)}")
        return interrupts.exit_code or 1
    output.say(farewell(topology.name, ending.modules, ending.seconds))
    if ending.dead:
        await _tell_of_letters(site)
    if ending.stuck:
        output.say(f"nothing can go on: {ending.stuck}")
    if ending.open_groups:
        output.say(f"{plural(ending.open_groups, 'group')} still without all members")
    return 1 if ending.dead or ending.stuck or ending.open_groups else 0


async def _left(site: Site, topology: Topology) -> str:
    """Say how much is left undone, if the server still answers."""
    try:
        async with asyncio.timeout(LEFT_SECONDS):
            backlogs = [await site.admin.backlog(name) for name in topology.modules]
    except TimeoutError:
        return "the server does not answer; what was accepted is kept"
    return f"{plural(sum(b.waiting + b.in_hand for b in backlogs), 'message')} left"


async def _send(site: Site, topology: Topology, wishes: Wishes) -> None:
    broker = await site.broker()
    entries = []
    for module, body in wishes.sends:
        outbox = Outbox(
            names=site.names, topology=topology, module=module, body_limit=broker.body_limit
        )
        try:
            entries.append(outbox.entry(body.encode("utf-8", "surrogateescape")))
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


async def _tell_of_letters(site: Site) -> None:
    pages = site.admin.messages(site.names.dead("*", "*"), most=LETTERS_SHOWN)
    async for page in pages:
        for stored in page:
            letter = letter_fields(stored)
            why = shortened(f"{letter['reason']}: {letter['detail']}", 200)
            output.say(f"  {letter['module']} {letter['id']}: {why}")
    output.say(f"see `sbx-actor dead list {site.names.topology}`")


async def _last_sequence(site: Site) -> int:
    sizes = {size.name: size.last_sequence for size in await site.admin.sizes()}
    return sizes.get(site.names.stream, 0)
