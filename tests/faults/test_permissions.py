"""F37: a right, or a login, that is taken away while a node works with it."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from faults.process import NodeProcess, until
from integration.islands import Process

from scalebox_actors.broker import Credentials, connect
from scalebox_actors.keys.folder import make_keys, read_keys
from scalebox_actors.keys.nkey import new_seed, public_key
from scalebox_actors.local import Site
from scalebox_actors.message import MSG_ID, REASON
from scalebox_actors.names import Names, parcel_of
from scalebox_actors.ports import Entry
from scalebox_actors.sites import Ground, server_configuration
from scalebox_actors.testing.listening import free_port
from scalebox_actors.topology.load import load

SOON = 40.0
"""Of a machine that others use, too."""
REFUSED_LOGIN, NOT_PERMITTED = 69, 77
MESSAGES = 20
NAMES = Names("t", "hub")
pytestmark = pytest.mark.timeout(120)
FUNCTIONS = """
import asyncio

async def same(message):
    await asyncio.sleep(0.02)
    return message.body
"""
TEXT = b"""
topology: t
sites:
  hub: {hub: true}
  a: {}
modules:
  good: {function: "functions:same", sinks: [fine]}
  bad: {function: "functions:same", sinks: [denied]}
  fine: {function: "functions:same"}
  denied: {function: "functions:same"}
  far: {function: "functions:same", site: a}
"""
TOPOLOGY = load(TEXT, path="t.yaml")


class Guarded:
    """One site with keys, and nodes that log in as nodes do."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_keys(TOPOLOGY, root / "keys")
        self.keys = read_keys(root / "keys", "hub", beside=".")
        (root / "functions.py").write_text(FUNCTIONS)
        (root / "t.yaml").write_bytes(TEXT)
        self.server = Process(root, f"nats://127.0.0.1:{free_port()}")
        self.nodes: list[NodeProcess] = []
        self.site: Site
        """As its admin sees it; made by the fixture."""
        ground = Ground(
            store=str(root / "js"),
            listen=self.server.url.removeprefix("nats://"),
            leaf_listen=f"127.0.0.1:{free_port()}",
        )
        self.configuration = server_configuration(TOPOLOGY, "hub", self.keys, ground)
        self.configure(self.configuration)

    def configure(self, text: str) -> None:
        """Write the server's configuration, and have it read again if it runs."""
        (self.root / "nats.conf").write_text(text)
        if self.server.running is not None:
            self.server.running.send_signal(signal.SIGHUP)

    def login(self, role: str) -> Credentials:
        """Return a role's login."""
        return Credentials(login=str(self.root / "keys" / "hub" / f"{role}.nk"))

    def node(self, name: str, login: str = "node") -> NodeProcess:
        """Start a node."""
        words = ["node", str(self.root / "t.yaml"), "--site", "hub", "--name", name, "--log-json"]
        reach = ["--nats", self.server.url, "--creds", f"{self.root}/keys/hub/{login}.nk"]
        work = ["--work", str(self.root / "work")]
        node = NodeProcess([*words, *reach, *work], self.root / f"{name}.log", {})
        self.nodes.append(node)
        return node

    async def results(self, module: str) -> set[str]:
        """Return what a module has emitted."""
        stored = await (await self.site.broker()).read_all(NAMES.result(module), most=1000)
        return {message.body.decode() for message in stored}

    async def letters(self) -> dict[str, str]:
        """Return the bodies of dead letters, and why each is one."""
        stored = await (await self.site.broker()).read_all(NAMES.dead("*", "*"), most=1000)
        return {letter.body.decode(): letter.headers[REASON] for letter in stored}

    async def send(self, *modules: str) -> set[str]:
        """Send messages to modules in turns; return the bodies, the same for each module."""
        bodies = {f"b{number}" for number in range(MESSAGES)}
        entries = [
            Entry(
                subject=NAMES.task(module),
                body=body.encode(),
                headers={MSG_ID: f"{module}-{body}"},
            )
            for body in sorted(bodies)
            for module in modules
        ]
        await (await self.site.broker()).inject(entries)
        return bodies


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    """The site, deployed by its admin."""
    here = Guarded(tmp_path)
    here.server.start()
    here.server.ready()
    link = await connect(
        here.server.url, name="t", events=lambda *_: None, credentials=here.login("admin")
    )
    here.site = Site(link, NAMES, None)
    await here.site.deploy(TOPOLOGY)
    try:
        yield here
    finally:
        for node in here.nodes:
            node.kill()
        await link.close()
        here.server.stop()


async def test_a_right_that_is_revoked_holds_back_nobody_else(guarded: Guarded) -> None:
    """What the node may not store any more is dead with its reason, its neighbours are done."""
    node = guarded.node("n1")
    await node.ready()
    guarded.configure(guarded.configuration.replace(f'"{NAMES.task("denied")}"', '"sbx.t.none"'))
    await until(lambda: "Reloaded server configuration" in guarded.server.log, "it", seconds=SOON)
    bodies = await guarded.send("good", "bad")

    async def ended() -> bool:
        done, dead = await guarded.results("fine"), await guarded.letters()
        return done == bodies == set(dead)

    await until(ended, "all done or dead", seconds=SOON)
    denied = [event["why"] for event in node.events("denied")]

    assert set((await guarded.letters()).values()) == {"refused"}
    assert denied
    assert all(NAMES.task("denied") in told for told in denied)
    assert node.exit_code is None


async def test_without_the_right_to_bury_nothing_is_dropped(guarded: Guarded) -> None:
    """What nobody at another site could read stays until it is a dead letter."""
    guarded.configure(guarded.configuration.replace(f'"{NAMES.dead("far", "*")}"', '"sbx.t.none"'))
    await until(lambda: "Reloaded server configuration" in guarded.server.log, "it", seconds=SOON)
    node = guarded.node("n1")
    await node.ready()
    await guarded.site.link.call(parcel_of(NAMES.out("a", "far"), 2), b"no parcel", {MSG_ID: "bad"})
    broker = await guarded.site.broker()
    await until(lambda: node.events("message_postponed"), "it is refused", seconds=SOON)
    stayed = await broker.waiting_to("a")
    guarded.configure(guarded.configuration)
    await until(guarded.letters, "it is buried", seconds=SOON)

    async def gone() -> bool:
        return await broker.waiting_to("a") == 0

    await until(gone, "it is acked", seconds=SOON)

    assert stayed > 0
    assert await guarded.letters() == {"no parcel": "bad_message"}
    assert any(NAMES.dead("far", "") in event["why"] for event in node.events("denied"))
    assert node.exit_code is None


async def test_a_login_that_is_revoked_ends_the_node(guarded: Guarded) -> None:
    """It says so and ends with 69; what waits is done once a node may log in again."""
    first = guarded.node("n1")
    await first.ready()
    mine, other = guarded.keys.users["hub"]["node"], public_key(new_seed())
    guarded.configure(guarded.configuration.replace(mine, other))
    code = await first.ended(SOON)
    bodies = await guarded.send("good")
    guarded.configure(guarded.configuration)
    second = guarded.node("n2")

    async def all_done() -> bool:
        return await guarded.results("fine") == bodies

    await until(all_done, "all done", seconds=SOON)

    assert code == REFUSED_LOGIN
    assert first.events("login_refused")
    assert second.exit_code is None


async def test_a_node_with_a_login_that_never_worked_does_not_start(guarded: Guarded) -> None:
    """It ends with 77 and a sentence, and takes nothing."""
    mine, other = guarded.keys.users["hub"]["node"], public_key(new_seed())
    guarded.configure(guarded.configuration.replace(mine, other))
    await until(lambda: "Reloaded server configuration" in guarded.server.log, "it", seconds=SOON)
    node = guarded.node("n1")
    code = await node.ended(SOON)

    assert code == NOT_PERMITTED
    assert "refuses our login" in node.log.read_text()
