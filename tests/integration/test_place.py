"""A server that is not the site it should be is refused, and so is a link that stands open."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.islands import SITES, Islands, Process, islands, topology

from scalebox_actors.broker import Link, check_place, claim, connect, ensure
from scalebox_actors.broker.connect import OLDEST_SERVER
from scalebox_actors.errors import Permanent, Unavailable
from scalebox_actors.names import Names
from scalebox_actors.rights import Role
from scalebox_actors.sites import Ground, server_configuration
from scalebox_actors.testing.listening import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Islands]:
    """Three open sites on this machine, as `run` starts them."""
    with islands(tmp_path_factory.mktemp("open"), keys=False) as here:
        yield here


@pytest.fixture
def without_lists(sites: Islands, tmp_path: Path) -> Iterator[Process]:
    """Site b with a link that denies nothing, in the place of the real one."""
    sites.servers["b"].stop()
    bad = server(tmp_path, "b", sites.leaves, drop_lists=True)
    yield bad
    bad.stop()
    sites.servers["b"].start()
    sites.servers["b"].ready()


def server(root: Path, site: str, leaves: str, *, drop_lists: bool) -> Process:
    """Start one more server of a site, with the lists of its link or without."""
    listen = f"127.0.0.1:{free_port()}"
    ground = Ground(store=str(root / "js"), listen=listen, hub=leaves)
    text = server_configuration(topology(), site, None, ground)
    if drop_lists:
        text = re.sub(r"\s+deny_(im|ex)ports: \[[^]]*\]", "", text)
    (root / "nats.conf").write_text(text)
    process = Process(root, f"nats://{listen}")
    process.start()
    process.ready()
    return process


async def link_to(process: Process) -> Link:
    """Connect to a server."""
    return await connect(process.url, name="test", events=lambda *_: None)


async def joined(origin: Link, subject: str) -> None:
    """Wait until a message of `origin` reaches another site."""
    async with asyncio.timeout(10):
        await origin.call(subject, b"x")


@pytest.mark.parametrize("site", SITES)
async def test_a_site_in_order_is_accepted(sites: Islands, site: str) -> None:
    """As `conf` makes them, every site passes, also when it is asked twice."""
    async with sites.link(site, Role.ADMIN) as link:
        await check_place(link, sites.topology, Names("t", site))
        await claim(link, sites.topology, Names("t", site))
        await check_place(link, sites.topology, Names("t", site))


async def test_another_site_is_not_this_one(sites: Islands) -> None:
    """A node that is told the address of another site does not start, and hears which it is."""
    async with sites.link("a", Role.ADMIN) as link:
        with pytest.raises(Permanent, match="one of site a, not of site b"):
            await check_place(link, sites.topology, Names("t", "b"))


async def test_a_server_without_domain_is_no_site(tmp_path: Path, sites: Islands) -> None:
    """A plain JetStream server is no site of a topology that has several."""
    listen = f"127.0.0.1:{free_port()}"
    store = tmp_path / "js"
    (tmp_path / "nats.conf").write_text(f'listen: "{listen}"\njetstream {{ store_dir: "{store}" }}')
    plain = Process(tmp_path, f"nats://{listen}")
    plain.start()
    plain.ready()
    link = await link_to(plain)
    try:
        with pytest.raises(Permanent, match="without a JetStream domain"):
            await check_place(link, sites.topology, Names("t", "a"))
    finally:
        await link.close()
        plain.stop()


async def test_two_sites_of_one_name_do_not_both_run(sites: Islands, tmp_path: Path) -> None:
    """The second node under a name refuses to start while the first one works."""
    names, hub = Names("t", "b"), Names("t", "hub")
    async with sites.link("hub", Role.ADMIN) as arbiter, sites.link("b", Role.ADMIN) as first:
        await claim(arbiter, sites.topology, hub)
        await check_place(first, sites.topology, names)  # it is heard
        twin = server(tmp_path, "b", sites.leaves, drop_lists=False)
        second = await link_to(twin)
        try:
            await ensure(second, sites.topology, names)
            await joined(second, hub.task("spare"))
            with pytest.raises(Permanent, match="another site runs under the name b"):
                await until_refused(second, sites, names)
        finally:
            await second.close()
            twin.stop()


async def until_refused(link: Link, sites: Islands, names: Names) -> None:
    """Ask again while the two push each other out of the hub."""
    async with asyncio.timeout(15):
        while True:
            await check_place(link, sites.topology, names)


async def test_an_open_link_is_refused(sites: Islands, without_lists: Process) -> None:
    """A link that lets the JetStream API of another site through is refused in words."""
    link = await link_to(without_lists)
    await ensure(link, sites.topology, Names("t", "b"))
    await joined(link, Names("t", "hub").task("spare"))
    try:
        with pytest.raises(Permanent, match="can be reached from site b"):
            await check_place(link, sites.topology, Names("t", "b"))
    finally:
        await link.close()


async def test_an_open_link_still_keeps_tasks_apart(sites: Islands, without_lists: Process) -> None:
    """Without any list the site in every subject keeps each task at one site (F41)."""
    link = await link_to(without_lists)
    names = Names("t", "b")
    await ensure(link, sites.topology, names)
    await joined(link, Names("t", "hub").task("spare"))
    async with sites.link("a", Role.ADMIN) as a:
        before = {"a": await stored(a, Names("t", "a")), "b": await stored(link, names)}
        for number in range(20):
            await link.call(names.task("count"), b"for b", {"Nats-Msg-Id": f"b{number}"})
        after = {"a": await stored(a, Names("t", "a")), "b": await stored(link, names)}
    await link.close()

    assert (after["a"] - before["a"], after["b"] - before["b"]) == (0, 20)


async def stored(link: Link, names: Names) -> int:
    """Return how many messages a site's stream has."""
    info = await link.api(f"STREAM.INFO.{names.stream}")
    state = info["state"]
    assert isinstance(state, dict)
    return int(state["messages"])


async def test_an_older_server_is_refused() -> None:
    """A server before 2.14 is refused by its version, before anything is asked of it."""

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.12.1","max_payload":1048576,"jetstream":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(old, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match=r"version 2\.12\.1; 2\.14 or later") as caught:
            await connect(f"nats://127.0.0.1:{port}", name="x", events=lambda *_: None)

    assert OLDEST_SERVER == (2, 14)
    assert caught.value.exit_code == 69
