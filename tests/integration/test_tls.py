"""Off this host nothing is said in the clear, and only to the server that it should be (S7)."""

import asyncio
import datetime as dt
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration.islands import Process, topology

from scalebox_actors.broker import Credentials, connect
from scalebox_actors.broker.connect import needs_tls
from scalebox_actors.errors import NotPermitted
from scalebox_actors.keys.folder import make_keys, read_keys
from scalebox_actors.sites import Ground, server_configuration
from scalebox_actors.testing.listening import free_port

pytestmark = [
    pytest.mark.integration,
    # nats-py leaves a connection that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CERTIFICATE_LIFE = dt.timedelta(days=825)
LEFT, SOON = 6.0, 30.0


def serve(root: Path, *, tls: bool, made: dt.datetime | None = None) -> Process:
    """Start the server of the hub as it would stand on a network, with keys of its own."""
    make_keys(topology(), root / "keys", now=made)
    port = free_port()
    listen = f"0.0.0.0:{port}" if tls else f"127.0.0.1:{port}"
    folder = root / "keys" / "hub"
    ground = Ground(store=str(root / "js"), listen=listen, leaf_listen=f"127.0.0.1:{free_port()}")
    keys = read_keys(root / "keys", "hub")
    (folder / "nats.conf").write_text(server_configuration(topology(), "hub", keys, ground))
    process = Process(folder, f"tls://127.0.0.1:{port}")
    process.start()
    process.ready()
    return process


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server that listens on every address, with TLS."""
    process = serve(tmp_path_factory.mktemp("network"), tls=True)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server on loopback, without TLS for its clients."""
    process = serve(tmp_path_factory.mktemp("plain"), tls=False)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server whose certificate ended long ago; its authority has not."""
    made = dt.datetime.now(dt.UTC) - dt.timedelta(days=1000)
    process = serve(tmp_path_factory.mktemp("expired"), tls=True, made=made)
    yield process
    process.stop()


def credentials(process: Process, authority: Path | None = None) -> Credentials:
    """Return the admin's login, and whom it trusts."""
    trusted = authority or process.folder / "ca.pem"
    return Credentials(login=str(process.folder / "admin.nk"), tls_ca=str(trusted))


async def reached(url: str, given: Credentials | None) -> str:
    """Return the domain of the server that answered."""
    link = await connect(url, name="x", events=lambda *_: None, credentials=given)
    domain = link.domain
    await link.close()
    return domain


async def test_the_right_server_is_spoken_to(network: Process) -> None:
    """With the authority that signed its certificate, and the name that stands in it."""
    assert await reached(network.url, credentials(network)) == "hub"


async def test_a_wrong_authority_is_refused(network: Process, plain: Process) -> None:
    """A certificate that somebody else signed is not trusted."""
    with pytest.raises(NotPermitted, match="not the one it should be"):
        await reached(network.url, credentials(network, plain.folder / "ca.pem"))


async def test_without_an_authority_nobody_is_trusted(network: Process) -> None:
    """A development authority is not one of the system's."""
    with pytest.raises(NotPermitted, match="not the one it should be"):
        await reached(network.url, Credentials(login=str(network.folder / "admin.nk")))


async def test_a_wrong_name_is_refused(network: Process) -> None:
    """The same server under an address that is not in its certificate."""
    url = network.url.replace("127.0.0.1", "127.0.0.2")

    with pytest.raises(NotPermitted, match="not the one it should be"):
        await reached(url, credentials(network))


async def test_an_expired_certificate_is_refused(expired: Process) -> None:
    """A certificate that has ended proves nothing."""
    with pytest.raises(NotPermitted, match="expired"):
        await reached(expired.url, credentials(expired))


@pytest.mark.timeout(60)
async def test_a_certificate_that_expires_meanwhile_is_refused_and_renewed(tmp_path: Path) -> None:
    """F37: a connection outlives its certificate; the next one is refused, loudly, until it is new.

    Who waits for an answer gets it then: nothing is given up for a certificate that is renewed.
    """
    made = dt.datetime.now(dt.UTC) - CERTIFICATE_LIFE + dt.timedelta(seconds=LEFT)
    process = serve(tmp_path, tls=True, made=made)
    events: list[tuple[str, str]] = []
    link = await connect(
        process.url, name="x", events=lambda *e: events.append(e), credentials=credentials(process)
    )
    try:
        await until(lambda: dt.datetime.now(dt.UTC) > made + CERTIFICATE_LIFE, 2 * LEFT)
        before = await link.api("INFO")
        process.kill()
        process.start()
        waiting = asyncio.create_task(link.api("INFO"))
        await until(lambda: any("expired" in detail for _, detail in events), SOON)
        process.kill()
        make_keys(topology(), tmp_path / "keys")
        process.start()
        async with asyncio.timeout(SOON):
            after = await waiting
    finally:
        await link.close()
        process.stop()

    assert before["domain"] == after["domain"] == "hub"


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of a clock, and of events of nats-py
            await asyncio.sleep(0.02)


async def test_a_server_cannot_talk_us_out_of_tls(plain: Process) -> None:
    """Where TLS is asked for, a server that offers none is told nothing, not even a login."""
    with pytest.raises(NotPermitted, match="without TLS"):
        await reached(plain.url, credentials(plain))

    assert "admin" not in plain.log


@pytest.mark.parametrize(
    ("url", "insecure", "expected"),
    [
        pytest.param("nats://127.0.0.1:4222", False, False, id="loopback"),
        pytest.param("nats://localhost", False, False, id="loopback-by-name"),
        pytest.param("nats://[::1]:4222", False, False, id="loopback-6"),
        pytest.param("tls://127.0.0.1", False, True, id="asked-for"),
        pytest.param("nats://hub:4222", False, True, id="another-host"),
        pytest.param("hub:4222", False, True, id="no-scheme"),
        pytest.param("nats://10.0.0.7", False, True, id="another-address"),
        pytest.param("nats://hub:4222", True, False, id="insecure-by-word"),
        pytest.param("tls://hub:4222", True, True, id="asked-for-wins"),
        pytest.param("nats://127.evil.example:4222", False, True, id="a-name-like-loopback"),
        pytest.param("nats://localhost.evil.example", False, True, id="a-name-like-localhost"),
    ],
)
def test_plain_is_for_loopback(url: str, insecure: bool, expected: bool) -> None:
    """Only a server on this host may be spoken to in the clear, unless somebody says so."""
    assert needs_tls(url, insecure=insecure) is expected


def test_nothing_older_than_tls_1_2() -> None:
    """The context that clients use knows no older version; servers are told the same."""
    assert ssl.create_default_context().minimum_version >= ssl.TLSVersion.TLSv1_2
