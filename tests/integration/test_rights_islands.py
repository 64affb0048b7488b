"""Sites are islands: what another site's operator can do at most, and who may come in at all."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import nkeys
import pytest
from integration.islands import HUB, SOON, A, Islands, Process, islands, said

from scalebox_actors.broker import Credentials, Link, connect
from scalebox_actors.broker.client import Client
from scalebox_actors.errors import NotPermitted, Unavailable
from scalebox_actors.keys.folder import read_keys
from scalebox_actors.rights import Role
from scalebox_actors.testing.listening import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Islands]:
    """Three sites with keys, running."""
    with islands(tmp_path_factory.mktemp("islands")) as here:
        yield here


class Rogue:
    """What the operator of site b can do at most: b's own keys, and no list of ours in the way."""

    def __init__(self, sites: Islands, root: Path) -> None:
        assert sites.keys is not None
        keys, port = sites.keys / "b", free_port()
        seed = (keys / "leaf.conf").read_text().split('"')[1]
        tls = f'cert_file: "{keys}/server.pem", key_file: "{keys}/server.key"'
        self.process = Process(root, f"nats://127.0.0.1:{port}")
        (root / "nats.conf").write_text(
            f'listen: "127.0.0.1:{port}"\n'
            "accounts { X { users: [ { user: rogue, password: rogue } ] } }\n"
            "leafnodes { remotes: [ {\n"
            f'  url: "tls://{sites.leaves}", account: X, nkey: "{seed}"\n'
            f'  tls {{ {tls}, ca_file: "{keys}/ca.pem" }}\n'
            "} ] }\n"
        )

    async def link(self) -> Link:
        """Return a connection that its own server denies nothing."""
        url = self.process.url.replace("//", "//rogue:rogue@")
        return await connect_anyhow(url)


async def connect_anyhow(url: str) -> Link:
    """Connect to a server without JetStream, which `connect` refuses."""
    client = Client(lambda *_: None)
    await client.connect(url, inbox_prefix="_INBOX_b.rogue")
    link = Link(client, lambda *_: None)
    await link.start()
    return link


@pytest.fixture
def rogue(sites: Islands, tmp_path: Path) -> Iterator[Rogue]:
    """Site b in the hands of somebody who means harm, its own server gone."""
    sites.servers["b"].stop()
    bad = Rogue(sites, tmp_path)
    bad.process.start()
    bad.process.ready()
    yield bad
    bad.process.stop()
    sites.servers["b"].start()


async def test_a_site_is_out_of_reach_of_another(sites: Islands, rogue: Rogue) -> None:
    """With b's own keys and no lists, nothing of another site is read, forged or deleted."""
    admin, bad = await sites.login("a", Role.ADMIN), await rogue.link()
    heard: list[bytes] = []
    async with asyncio.timeout(10):  # the link is up once a message that may cross does
        await bad.call(A.task("count"), b"addressed to a", {"Nats-Msg-Id": "may-cross"})
    for subject in ("sbx.t.a.>", "sbx.t.hub.>", "$JS.>", "$KV.>", "_INBOX_a.>", "_INBOX_hub.>"):
        await bad.subscribe(subject, lambda s, *_: heard.append(s))
    before = await admin.api(f"STREAM.INFO.{A.stream}")
    attacks = [
        A.done("count", "forged"),
        A.dead("count", "forged"),
        A.out("hub", "total"),
        HUB.result("spare"),
        f"$JS.a.API.STREAM.DELETE.{A.stream}",
        f"$JS.a.API.STREAM.PURGE.{A.stream}",
        f"$JS.a.API.DIRECT.GET.{A.stream}.{A.task('count')}",
        f"$JS.hub.API.STREAM.DELETE.{HUB.stream}",
        f"$KV.{A.bucket}.topology",
        f"$JS.ACK.{A.stream}.run_count.1.1.1.1.0",
    ]
    answers = [await said(bad, attack) for attack in attacks]
    heard.clear()  # it has heard itself
    await admin.call(A.task("count"), b"not for b", {"Nats-Msg-Id": "not-for-b"})
    after = await admin.api(f"STREAM.INFO.{A.stream}")
    await bad.close()
    await admin.close()

    assert set(answers) <= {"silence", "denied"}
    assert heard == []
    assert messages(after) == messages(before) + 1


async def test_a_rogue_cannot_borrow_another_name(sites: Islands, rogue: Rogue) -> None:
    """Tasks for site a reach a alone, though b's operator listens for them under a's name."""
    admin, bad = await sites.login("hub", Role.ADMIN), await rogue.link()
    heard: list[bytes] = []
    await bad.subscribe("sbx.t.a.>", lambda s, *_: heard.append(s))
    await said(bad, HUB.task("spare"))
    answer = await said(admin, A.task("count"), b"for a")
    await asyncio.sleep(SOON)  # nothing can be awaited that must not come
    await bad.close()
    await admin.close()

    assert (answer, heard) == ("done", [])


def messages(info: dict[str, object]) -> int:
    """Return how many messages a stream has, as its server says."""
    state = info["state"]
    assert isinstance(state, dict)
    return int(state["messages"])


# --- who may come in at all ----------------------------------------------------------------------


async def test_nobody_comes_in_without_a_key(sites: Islands) -> None:
    """Without a login, and with one of another site, the answer is a refusal in words."""
    assert sites.keys is not None
    other = str(sites.keys / "b" / "admin.nk")
    for credentials in (None, Credentials(login=other)):
        with pytest.raises(NotPermitted, match="refuses our login"):
            await connect(
                sites.servers["a"].url, name="x", events=lambda *_: None, credentials=credentials
            )


# nats-py leaves a connection on which its login was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_revoked_login_ends_the_connection(sites: Islands) -> None:
    """A login taken away while it is in use: events say so, and whoever waits gets an error."""
    server = sites.servers["a"]
    path = server.folder / "nats.conf"
    text = path.read_text()
    sites.events.clear()
    async with sites.link("a", Role.SENDER) as link:
        path.write_text(text.replace(public_key(sites, "a", Role.SENDER), stranger()))
        os.kill(server.pid, signal.SIGHUP)
        try:
            with pytest.raises(Unavailable, match="refuses our login"):
                await until_it_fails(link)
        finally:
            path.write_text(text)
            os.kill(server.pid, signal.SIGHUP)

    assert "login_refused" in [event for event, _ in sites.events]


def public_key(sites: Islands, site: str, role: Role) -> str:
    """Return the public half of a login."""
    assert sites.keys is not None
    return read_keys(sites.keys, site).users[site][role]


def stranger() -> str:
    """Return the public half of a key that nobody has."""
    seed = bytearray(nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER))
    return bytes(nkeys.from_seed(seed).public_key).decode()


async def until_it_fails(link: Link) -> None:
    """Ask again and again."""
    async with asyncio.timeout(20):
        while True:
            await link.api(f"STREAM.INFO.{A.stream}")
            await asyncio.sleep(0.05)
