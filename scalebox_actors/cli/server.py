"""`sbx-actor server`: the nats-server of one site, its streams made and its place checked."""

import asyncio
import logging
import os
import re
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from scalebox_actors import local
from scalebox_actors.broker import Credentials, connect, watch_links
from scalebox_actors.clerk import Clerk
from scalebox_actors.cli import logbook
from scalebox_actors.cli.options import Common, common, parameterised, texts
from scalebox_actors.cli.topologies import load
from scalebox_actors.errors import BadInput, SbxError, Transient, Unavailable
from scalebox_actors.keys.nkey import new_seed, public_key
from scalebox_actors.local import Reach, open_site
from scalebox_actors.names import Names
from scalebox_actors.rights import Role
from scalebox_actors.server import EmbeddedServer, Settings
from scalebox_actors.sites import (
    AUTHORITY,
    Ground,
    Keys,
    is_loopback,
    server_configuration,
    site_of,
    split_address,
)
from scalebox_actors.topology.model import Site, Topology

AGAIN, PATIENCE = 2.0, 30.0
CLIENT_PORT = 4222
CLERK = "server"
"""The name under which the server's process answers for its site."""

_LISTENS = re.compile(r'^ *(?:listen|http): "(.*)"$', re.MULTILINE)
"""Where a server that is configured so waits for somebody."""
_ADDRESS = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\]):([0-9]{1,5})")
_PORTS = 65_536

log = logging.getLogger(__name__)


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What was typed beside the topology."""

    site: str | None = None
    keys: str | None = None
    listen: str = ""
    member: int = 1
    monitor: str = ""
    log_json: bool = False


@click.command()
@click.argument("topology")
@click.option(
    "--site",
    metavar="SITE",
    envvar="SBX_SITE",
    help="The site whose server this is.  [env SBX_SITE]",
)
@click.option(
    "--keys",
    metavar="DIR",
    envvar="SBX_KEYS",
    help="The folder that `conf --keys` made, or its part for this site.  [env SBX_KEYS]",
)
@click.option("--listen", metavar="HOST:PORT", default="", help="Where clients are waited for.")
@click.option(
    "--member",
    type=click.IntRange(1, 3),
    default=1,
    help="Which of the three servers of a replicated site this is.",
)
@click.option("--monitor", metavar="HOST:PORT", default="", help="Serve health checks there.")
@click.option(
    "--store", metavar="DIR", envvar="SBX_STORE", help="Where its streams lie.  [env SBX_STORE]"
)
@click.option("--log-json", is_flag=True, help="Log as lines of JSON.")
@parameterised
@common
def server(common: Common, /, **given: object) -> None:
    """Run the nats-server of a site of TOPOLOGY, a YAML file, until told to stop.

    Its configuration is made anew at every start, as `conf` prints it. Then its streams and
    consumers are made or checked, and its place: that the server is this site, that no other
    runs under its name, and that the streams of the others are out of reach.

    \b
    sbx-actor server topology.yaml --site b --keys keys
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    sets, env_files = given.pop("sets"), given.pop("env_files")
    topology = load(str(given.pop("topology")), texts(sets), texts(env_files)).topology
    wishes = msgspec.convert({**given, "site": common.site}, Wishes)
    _check_address("--listen", wishes.listen)
    _check_address("--monitor", wishes.monitor)
    if wishes.site is None and len(topology.site_names) > 1:
        raise click.UsageError(f"give --site, one of {', '.join(topology.site_names)}")
    here = site_of(topology, wishes.site or topology.hub)
    level = logging.DEBUG if common.verbose else logging.INFO
    logbook.start(json=wishes.log_json or common.json, level=level)
    raise click.exceptions.Exit(
        asyncio.run(_serve(topology, here, wishes, _store(common, here, topology)))
    )


def _store(common: Common, here: Site, topology: Topology) -> Path:
    if common.store or here.store:
        return Path(common.store or here.store)
    return local.site_folder(common.store_of(topology.name), here.name)


async def _serve(topology: Topology, here: Site, wishes: Wishes, store: Path) -> int:
    """Return the exit code of a server that has ended."""
    listen = wishes.listen or here.listen
    keys = _keys(wishes, here.name, store)
    _check_named(here, keys, listen)
    # Nobody else ever knows it, and the server forgets it with the next start.
    seed = new_seed()

    def configure(ground: Ground) -> str:
        own = msgspec.structs.replace(
            ground,
            listen=listen,
            member=wishes.member,
            monitor=wishes.monitor,
            watch=public_key(seed) if len(topology.site_names) > 1 else "",
        )
        return server_configuration(topology, here.name, keys, own)

    if keys is None:
        _check_closed(configure(Ground()), here.name)
    process = EmbeddedServer(store, Settings(site=here.name), configure)
    reach = Reach(store=store, nats=_url(listen), credentials=_admin(keys))
    try:
        with _asked_to_stop() as stop:
            stopping = asyncio.create_task(stop.wait())
            if await _begun(process, stopping):
                log.info("server_started", extra={"site": here.name, "listen": listen})
                beside = [_watch(process.pid, reach, seed)] if len(topology.site_names) > 1 else []
                await _until_stopped(
                    process, stopping, _deploy(topology, here.name, reach), *beside
                )
    finally:
        await asyncio.to_thread(process.stop)
    log.info("server_ended", extra={"site": here.name})
    return 0


async def _begun(process: EmbeddedServer, stopping: "asyncio.Task[object]") -> bool:
    """Start the server; False if we are asked to stop while it restores its store."""
    beginning = asyncio.create_task(process.begin())
    await asyncio.wait({beginning, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if beginning.done():
        return bool(beginning.result())
    beginning.cancel()
    await asyncio.wait({beginning})
    return False


async def _until_stopped(
    process: EmbeddedServer,
    stopping: "asyncio.Task[object]",
    work: Coroutine[None, None, None],
    *beside: Coroutine[None, None, None],
) -> None:
    """Work until we are asked to stop; raises if the server ends before, or the work fails."""
    ending = asyncio.create_task(process.wait())
    working = asyncio.create_task(work)
    waits: set[asyncio.Task[Any]] = {ending, stopping, working}
    waits |= {asyncio.create_task(one) for one in beside}
    while not (ending.done() or stopping.done()):
        done, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            working.result()
    for task in waits:
        task.cancel()
    if ending.done():
        raise Unavailable(f"the nats-server ended by itself; its log is {process.log}")


async def _deploy(topology: Topology, site: str, reach: Reach) -> None:
    """Make what the topology needs, then stay to answer for the site.

    A cluster may take a while to find its majority, so what is not there yet is waited for.
    """
    names = Names(topology.name, site)
    while True:
        try:
            async with open_site(names, reach) as place:
                async with asyncio.timeout(PATIENCE):
                    changes = await place.deploy(topology)
                log.info("deployed", extra={"site": site, "changes": "; ".join(changes) or "none"})
                await Clerk(place, await place.broker(), topology).serve(CLERK)
                await asyncio.Event().wait()
        except (Transient, TimeoutError) as error:
            log.warning("deploy_waits", extra={"why": str(error) or "no answer yet"})
            await asyncio.sleep(AGAIN)


async def _watch(pid: int, reach: Reach, seed: str) -> None:
    """Watch over the links; a site without a watch works, it only notices later."""
    authority = reach.credentials.tls_ca if reach.credentials else None
    login = Credentials(seed=seed, tls_ca=authority)
    while True:
        try:
            link = await connect(reach.nats or "", name=CLERK, events=_told, credentials=login)
            try:
                await watch_links(link, pid)
            finally:
                await link.close()
        except (SbxError, OSError) as error:
            log.warning("links_not_watched", extra={"why": str(error)})
        await asyncio.sleep(AGAIN)


def _told(event: str, detail: str) -> None:
    log.warning(event, extra={"why": detail})


def _keys(wishes: Wishes, site: str, store: Path) -> Keys | None:
    if wishes.keys is None:
        return None
    # Imported only here: cryptography is slow to import.
    from scalebox_actors.keys.folder import read_keys, site_folder  # noqa: PLC0415

    folder = Path(wishes.keys).absolute()
    beside = os.path.relpath(site_folder(folder, site), store.absolute())
    return read_keys(folder, site, beside=beside)


def _admin(keys: Keys | None) -> Credentials | None:
    if keys is None:
        return None
    folder = Path(keys.folder)
    return Credentials(login=str(folder / f"{Role.ADMIN}.nk"), tls_ca=str(folder / AUTHORITY))


def _check_closed(configuration: str, site: str) -> None:
    """Refuse to stand open to a network, whatever for: clients, links, other servers, a look."""
    reached = [one for one in _LISTENS.findall(configuration) if not is_loopback(one)]
    if reached:
        raise BadInput(
            f"site {site} would be open to everybody who reaches {' or '.join(reached)}: "
            "make keys with `sbx-actor conf --keys DIR` and give --keys DIR"
        )


def _check_named(here: Site, keys: Keys | None, listen: str) -> None:
    """Refuse an address for which the site's certificate is not; we would refuse it, too."""
    if keys is None or is_loopback(listen):
        return
    from scalebox_actors.keys.certificates import check_host  # noqa: PLC0415 - cryptography is slow

    host = split_address(_url(listen).partition("//")[2], CLIENT_PORT)[0].strip("[]")
    check_host(Path(keys.folder), here.name, host)


def _check_address(option: str, address: str) -> None:
    """Refuse what the server would refuse, which would say so in its own words."""
    found = _ADDRESS.fullmatch(address)
    if address and not (found and 0 < int(found[1]) < _PORTS):
        raise BadInput(f"{option} {address[:80]}: not of the form HOST:PORT")


def _url(listen: str) -> str:
    host, port = split_address(listen, CLIENT_PORT)
    return f"nats://{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{port}"  # noqa: S104


@contextmanager
def _asked_to_stop() -> Iterator[asyncio.Event]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
