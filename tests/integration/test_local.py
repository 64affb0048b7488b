"""One site for people: the server of a `run` comes back, and what operators do to messages."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from scalebox_actors import clerk as clerk_module
from scalebox_actors import operations
from scalebox_actors import server as embedded
from scalebox_actors.clerk import Clerk
from scalebox_actors.errors import BadInput, Unavailable
from scalebox_actors.local import Reach, Site, open_site
from scalebox_actors.message import JOINED, MSG_ID, REASON
from scalebox_actors.names import Names, digest
from scalebox_actors.ports import Entry
from scalebox_actors.questions import Op, Question, pages
from scalebox_actors.records import DoneRecord, Ended
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

NAMES = Names("t")
TWO = b"topology: t\nmodules:\n  a: {function: 'f:a'}\n  b: {function: 'f:b'}\n"
ONE = b"topology: t\nmodules:\n  a: {function: 'f:a'}\n"


@pytest.fixture
def topology() -> Topology:
    """Two modules."""
    return load(TWO, path="t.yaml")


@pytest.fixture
async def site(tmp_path: Path, topology: Topology) -> AsyncIterator[Site]:
    """A deployed site with a server of its own."""
    async with open_site(NAMES, Reach(store=tmp_path / "store")) as site:
        await site.deploy(topology)
        yield site


async def test_a_killed_server_comes_back(site: Site) -> None:
    """Our own server is started again on its port with all that it had stored."""
    broker = await site.broker()
    assert site.server is not None
    killed = site.server.pid
    await broker.write([Entry(subject=NAMES.task("a"), body=b"x")])

    os.kill(killed, signal.SIGKILL)
    refusal = await broker.write([Entry(subject=NAMES.task("a"), body=b"y")])

    assert refusal is None
    assert site.server.pid != killed
    assert (await broker.backlog("a")).waiting == 2


async def test_a_killed_server_comes_back_once_its_disk_has_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that fails for want of room is tried again every second."""
    written, attempts = embedded.write_whole, list[Path]()

    def write(path: Path, data: bytes) -> None:
        attempts.append(path)
        if len(attempts) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(path, data)

    monkeypatch.setattr(embedded, "write_whole", write)
    broker = await site.broker()
    assert site.server is not None
    os.kill(site.server.pid, signal.SIGKILL)

    assert await broker.write([Entry(subject=NAMES.task("a"), body=b"y")]) is None
    assert len(attempts) > 1


async def test_a_borrowed_server_is_taken_over(tmp_path: Path, topology: Topology) -> None:
    """Whoever used another command's server starts it again when that command has ended."""
    reach = Reach(store=tmp_path / "store")
    async with AsyncExitStack() as first:
        owner = await first.enter_async_context(open_site(NAMES, reach))
        await owner.deploy(topology)
        async with open_site(NAMES, reach) as second, open_site(NAMES, reach) as third:
            assert owner.server is not None
            assert second.server is None
            url = owner.server.url
            await first.aclose()
            async with asyncio.timeout(15):
                for site in (second, third):
                    broker = await site.broker()
                    await broker.write([Entry(subject=NAMES.task("a"), body=b"x")])
            assert (await broker.backlog("a")).waiting == 2
            assert embedded.running(reach.store) == url
        assert embedded.running(reach.store) is None


async def test_a_server_of_another_kind_is_left_to_its_command(tmp_path: Path) -> None:
    """What `sbx-actor server` runs has rights and links that a command knows nothing of."""
    reach = Reach(store=tmp_path / "store")
    other = embedded.EmbeddedServer(reach.store, embedded.Settings(site="local", max_file=2**30))
    other.start()
    async with open_site(NAMES, reach) as site:
        await asyncio.to_thread(other.stop)
        await asyncio.sleep(1)  # nothing can be awaited that must not come
        alone = embedded.running(reach.store)
        other.start()
        async with asyncio.timeout(15):
            await site.admin.exists()
        other.stop()

    assert alone is None


def test_messages_sent_at_once_are_all_stored(tmp_path: Path) -> None:
    """Of commands that find no server one starts it, and none depends on when that one ends."""
    path = tmp_path / "t.yaml"
    path.write_bytes(TWO)
    command = [str(Path(sys.executable).parent / "sbx-actor"), "send", str(path), "a"]
    store = ["--store", str(tmp_path / "store")]
    sending = [
        subprocess.Popen([*command, f"x{number}", *store])  # noqa: S603 - our own program
        for number in range(6)
    ]
    codes = [one.wait(50) for one in sending]

    async def waiting() -> int:
        async with open_site(NAMES, Reach(store=tmp_path / "store")) as site:
            return (await (await site.broker()).backlog("a")).waiting

    assert codes == [0] * 6
    assert asyncio.run(waiting()) == 6


async def test_without_a_store_there_is_nothing_to_reach(tmp_path: Path) -> None:
    """A command that only looks does not make a store."""
    with pytest.raises(Unavailable, match="nothing has run"):
        async with open_site(NAMES, Reach(store=tmp_path / "none", start=False)):
            pass

    assert not (tmp_path / "none").exists()


async def test_messages_of_a_removed_module_can_be_set_aside(site: Site) -> None:
    """The refusal names the command that helps, and after it the topology can be deployed."""
    broker = await site.broker()
    await broker.write([Entry(subject=NAMES.task("b"), body=b"x")])
    smaller = load(ONE, path="t.yaml")

    with pytest.raises(BadInput, match="sbx-actor dead bury t b"):
        await site.deploy(smaller)
    count = await operations.bury_waiting(site, broker, smaller, "b")
    await site.deploy(smaller)

    (letter,) = await broker.read_all(NAMES.dead("b", "*"))
    record = await broker.read(NAMES.done("b", letter.subject.rpartition(".")[2]))
    assert count == 1
    assert (letter.body, letter.headers[REASON]) == (b"x", "removed")
    assert record is not None
    assert Ended.DEAD in record.body.decode()
    assert await broker.read(NAMES.task("b")) is None


async def test_a_dropped_group_takes_its_members_along(site: Site, topology: Topology) -> None:
    """Members that were kept for the letter of their group go with it."""
    broker = await site.broker()
    group = digest("gather", "a", "monday")
    letter = NAMES.dead("a", group)
    await broker.write(
        [
            Entry(subject=letter, body=b"{}", headers={JOINED: group, REASON: "incomplete"}),
            Entry(subject=NAMES.member("a", group, "i1"), body=b"x"),
        ]
    )

    for stored in await broker.read_all(letter):
        await operations.drop(site, broker, topology, stored)

    assert await broker.read_all(NAMES.member("a", group, "*")) == []
    assert await broker.read(letter) is None


async def test_a_second_cancel_ends_the_runs_that_the_first_one_missed(
    site: Site, topology: Topology
) -> None:
    """Nodes are asked for whatever is cancelled and still there, but not for what ended well."""
    broker = await site.broker()
    clerk = Clerk(site, broker, topology)
    asked: list[object] = []

    async def cancel(question: bytes) -> bytes:
        asked.append(msgspec.json.decode(question))
        return b"false"

    await broker.serve("cancel", cancel)
    done = DoneRecord(ended=Ended.DONE)
    await broker.write(
        [
            Entry(subject=NAMES.task("a"), headers={MSG_ID: "m1"}),
            Entry(subject=NAMES.task("a"), headers={MSG_ID: "m2"}),
            Entry(subject=NAMES.done("a", "m2"), body=msgspec.json.encode(done)),
        ]
    )
    told = [await clerk.answer(Question(op=Op.CANCEL)) for _ in range(2)]

    assert [[one.id for one in page.changed] for page in told] == [["m1"], []]
    assert asked == [{"module": "a", "ids": ["m1"]}] * 2


async def test_what_is_cancelled_is_told_in_pages(
    site: Site, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer must fit one message; each that is cancelled is told of once."""
    monkeypatch.setattr(clerk_module, "CLERK_PAGE", 100)
    broker = await site.broker()
    await broker.inject(
        [
            Entry(subject=NAMES.task(module), headers={MSG_ID: f"{module}{n}"})
            for module in ("a", "b")
            for n in range(3000)
        ]
    )
    told = [page async for page in pages(Clerk(site, broker, topology), Question(op=Op.CANCEL))]

    ids = [one.id for page in told for one in page.changed]
    assert len(told) > 2
    assert (len(ids), set(ids)) == (6000, {f"{m}{n}" for m in ("a", "b") for n in range(3000)})
