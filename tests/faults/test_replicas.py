"""F8: three replicas of one site. One may fail, two stop the writing, and nothing is lost."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from integration.islands import Process

from scalebox_actors.broker import Credentials, Link, connect, ensure
from scalebox_actors.keys.folder import make_keys, read_keys
from scalebox_actors.names import Names
from scalebox_actors.sites import Ground, server_configuration
from scalebox_actors.testing.listening import free_port
from scalebox_actors.topology.load import load

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

TEXT = """
topology: t
sites:
  c: {{hub: true, replicas: 3, servers: {servers}}}
modules:
  m: {{image: x}}
"""
NAMES = Names("t", "c")
MEMBERS = (1, 2, 3)


class Cluster:
    """Three servers of one site on loopback, with keys."""

    def __init__(self, root: Path) -> None:
        # The routes follow from the topology, as in what `conf` makes.
        servers = [f"127.0.0.1:{free_port()}" for _ in MEMBERS]
        self.topology = load(TEXT.format(servers=servers).encode(), path="t.yaml")
        make_keys(self.topology, root / "keys")
        self.keys = root / "keys" / "c"
        self.servers = []
        for member in MEMBERS:
            listen = f"127.0.0.1:{free_port()}"
            folder = root / f"s{member}"
            folder.mkdir()
            ground = Ground(store=str(folder / "js"), listen=listen, member=member)
            keys = read_keys(root / "keys", "c", beside="../keys/c")
            (folder / "nats.conf").write_text(
                server_configuration(self.topology, "c", keys, ground)
            )
            self.servers.append(Process(folder, f"nats://{listen}"))

    async def link(self, server: Process) -> Link:
        """Connect to one of them; it tells us of the others."""
        login = Credentials(login=str(self.keys / "admin.nk"))
        return await connect(server.url, name="t", events=lambda *_: None, credentials=login)


@asynccontextmanager
async def cluster(root: Path) -> AsyncIterator[tuple[Cluster, Link]]:
    """Start all three and wait until they have agreed on a leader and on the streams."""
    three = Cluster(root)
    try:
        for server in three.servers:
            server.start()
        for server in three.servers:
            server.ready()
        link = await three.link(three.servers[0])
        try:
            async with asyncio.timeout(60):
                await ensure(link, three.topology, NAMES)
            yield three, link
        finally:
            await link.close()
    finally:
        for server in three.servers:
            server.stop()


async def put(link: Link, number: int) -> None:
    """Store one message; returns when a majority has it on disk."""
    await link.call(NAMES.task("m"), b"x", {"Nats-Msg-Id": f"m{number}"})


async def test_one_of_three_may_fail_and_two_may_not(tmp_path: Path) -> None:
    """With one server killed writing goes on; with two it waits, and resumes: nothing is lost."""
    async with cluster(tmp_path) as (three, link):
        info = await link.api(f"STREAM.INFO.{NAMES.stream}")
        for number in range(20):
            await put(link, number)
        three.servers[2].kill()
        async with asyncio.timeout(30):
            for number in range(20, 40):
                await put(link, number)
        three.servers[1].kill()
        stuck = asyncio.create_task(put(link, 40))
        done, _ = await asyncio.wait({stuck}, timeout=3)
        assert not done  # no majority: not stored, and not said to be
        three.servers[1].start()
        async with asyncio.timeout(60):
            await stuck
            state = (await link.api(f"STREAM.INFO.{NAMES.stream}"))["state"]

    assert isinstance(info["config"], dict)
    assert info["config"]["num_replicas"] == 3
    assert isinstance(state, dict)
    assert state["messages"] == 41


@pytest.mark.parametrize("certified", [False, True], ids=["without-a-certificate", "with-a-site's"])
async def test_no_stranger_joins_the_three(tmp_path: Path, certified: bool) -> None:
    """The port for routes opens to who has their own certificate, not to one of a site."""
    async with cluster(tmp_path) as (three, link):
        text = (three.servers[0].folder / "nats.conf").read_text()
        (route,) = re.findall(r'cluster \{.*?listen: "([^"]*)"', text, re.DOTALL)
        own = f'cert_file: "{three.keys}/server.pem", key_file: "{three.keys}/server.key"'
        tls = f'tls {{ {own}, ca_file: "{three.keys}/route.pem" }}' if certified else ""
        rogue = Process(tmp_path, f"nats://127.0.0.1:{free_port()}")
        (tmp_path / "nats.conf").write_text(
            f'server_name: rogue\nlisten: "{rogue.url.removeprefix("nats://")}"\n'
            "accounts { SBX { jetstream: enabled, users: [ { user: r, password: r } ] } }\n"
            f'jetstream {{ store_dir: "{tmp_path}/js", domain: c }}\n'
            f'cluster {{ name: c, listen: "127.0.0.1:{free_port()}", {tls}\n'
            f'  routes: [ "nats-route://{route}" ] }}\n'
        )
        rogue.start()
        try:
            rogue.ready()
            async with asyncio.timeout(20):
                while not re.search(r"rid:.*(TLS|tls|closed)", rogue.log):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await put(link, 1)
            info = await link.api(f"STREAM.INFO.{NAMES.stream}")
        finally:
            rogue.stop()

    assert "rogue" not in str(info["cluster"])
    assert "JetStream cluster new metadata leader" not in rogue.log
    assert re.search(r"rid:.*(TLS|tls|closed)", rogue.log)
