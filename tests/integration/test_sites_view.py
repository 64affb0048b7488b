"""One view over several sites: what every one of them shows, counts and takes back."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from integration.relays import (
    PROGRAM,
    SHOUTED,
    SOON,
    command,
    deployed,
    load_relay,
    nowhere,
    printed,
    write_relay,
)

from scalebox_actors.broker import JetStreamBroker
from scalebox_actors.cancelling import recall
from scalebox_actors.local import Reach, Site, open_sites, site_folder
from scalebox_actors.message import MSG_ID, ROOT, Raw
from scalebox_actors.node import WITHDRAW
from scalebox_actors.operations import Selection
from scalebox_actors.parcel import seal, unpack
from scalebox_actors.ports import Entry
from scalebox_actors.server import running
from scalebox_actors.topology.model import Topology

RELAY_SITES = ("hub", "east", "west")


@pytest.fixture
def relay(tmp_path: Path) -> Path:
    """Return a topology file: from the hub to two sites and back."""
    return write_relay(tmp_path)


@pytest.fixture
def topology() -> Topology:
    """Return the relay, loaded."""
    return load_relay()


class Kept:
    """`sbx-actor run --keep` of the relay, and where its servers listen."""

    def __init__(self, process: "subprocess.Popen[bytes]", store: Path) -> None:
        self.process = process
        self.store = store

    def url(self, site: str) -> str:
        """Return where the server of a site listens."""
        return running(site_folder(self.store, site)) or ""


@pytest_asyncio.fixture
async def kept(relay: Path, tmp_path: Path) -> AsyncIterator[Kept]:
    """Run all sites until the test has ended."""
    store = tmp_path / "store"
    log = (tmp_path / "run.log").open("wb")
    arguments = ("run", str(relay), "--keep", "--store", str(store))
    process = subprocess.Popen([*PROGRAM, *arguments], stdout=log, stderr=log)  # noqa: ASYNC220, S603 - our own
    found = Kept(process, store)
    end = time.monotonic() + SOON
    while not _nodes(found):
        assert process.poll() is None, (tmp_path / "run.log").read_text()
        assert time.monotonic() < end, "the sites did not come up"
        await asyncio.sleep(0.1)
    yield found
    process.terminate()
    assert process.wait(SOON) is not None
    log.close()


def _nodes(kept: Kept) -> bool:
    """Whether the nodes of all three sites answer."""
    if not kept.url("west"):
        return False
    done = command("status", "relay", "--nats", kept.url("hub"), "--json")
    return done.returncode == 0 and len(json.loads(done.stdout)["nodes"]) == len(RELAY_SITES)


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_every_site_shows_all(kept: Kept) -> None:
    """At the server of one leaf, every command speaks for all sites."""
    at_east = ("--nats", kept.url("east"))
    assert command("send", "relay", "split", "x", *at_east).returncode == 0
    assert command("send", "relay", "fail", "x", *at_east).returncode == 0
    end = time.monotonic() + SOON
    while not _has_results(kept) or not printed("dead", "list", "relay", *at_east):
        assert time.monotonic() < end

    (status,) = printed("status", "relay", *at_east)
    modules = {(m["module"], m["site"]): int(str(m["done"])) for m in _list(status["modules"])}
    assert set(modules) == {
        *(("split", "hub"), ("gather", "hub"), ("fail", "west")),
        *(("shout", "east"), ("shout", "west")),
    }
    assert modules["shout", "east"] + modules["shout", "west"] == 20
    assert status["unreachable"] == []

    records = printed("trace", "relay", *at_east)
    assert len([r for r in records if r["module"] == "shout"]) == 20
    failed = next(r for r in records if r["module"] == "fail")
    assert "as it should" in str(printed("logs", "relay", str(failed["id"]), *at_east))

    assert {m["site"] for m in printed("pause", "relay", "shout", *at_east)} == {"east", "west"}
    assert {m["site"] for m in printed("resume", "relay", "shout", *at_east)} == {"east", "west"}
    assert len(printed("dead", "drop", "relay", "--all", *at_east)) == 1
    assert printed("dead", "list", "relay", *at_east) == []


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_what_waits_elsewhere_is_cancelled(kept: Kept) -> None:
    """Cancel finds the messages of a module at other sites, and nothing comes of them."""
    at_hub = ("--nats", kept.url("hub"))
    assert command("pause", "relay", "shout", *at_hub).returncode == 0
    assert command("send", "relay", "split", "x", *at_hub).returncode == 0
    end = time.monotonic() + SOON
    while _waiting(kept, "shout") < 20:
        assert time.monotonic() < end

    cancelled = printed("cancel", "relay", "--module", "shout", *at_hub)

    assert {c["site"] for c in cancelled} == {"east", "west"}
    assert len(cancelled) == 20
    assert command("resume", "relay", "shout", *at_hub).returncode == 0
    while _waiting(kept, "shout"):
        assert time.monotonic() < end
    # A function may run and find itself cancelled only when it commits: nothing of it is stored.
    records = [r for r in printed("trace", "relay", *at_hub) if r["module"] == "shout"]
    assert "done" not in {r["verdict"] for r in records}
    assert not _has_results(kept)


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_a_site_that_does_not_answer_is_named(
    relay: Path, topology: Topology, tmp_path: Path
) -> None:
    """With no node at the other sites, status tells what it knows and which sites are missing."""
    store = ("--store", str(tmp_path / "store"))
    assert command("send", str(relay), "split", "x", *store).returncode == 0

    async def status() -> tuple[subprocess.CompletedProcess[str], str]:
        async with open_sites(topology, Reach(store=tmp_path / "store")) as sites:
            url = sites["west"].server.url if sites["west"].server else ""
            arguments = [*PROGRAM, "status", "relay", "--nats", url, "--json"]
            process = await asyncio.create_subprocess_exec(
                *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            out, err = await process.communicate()
            done = subprocess.CompletedProcess(arguments, process.returncode or 0, out.decode())
            return done, err.decode()

    done, said = asyncio.run(status())

    assert done.returncode == 0, said
    assert json.loads(done.stdout)["unreachable"] == ["hub", "east"]
    assert "site hub does not answer" in said


@pytest.mark.integration
@pytest.mark.timeout(60)
def test_a_server_of_another_site_is_refused(kept: Kept) -> None:
    """Whoever says that he is at one site and gives the server of another is told so."""
    done = command("status", "relay", "--nats", kept.url("east"), "--site", "west")

    assert done.returncode == 65
    assert "east" in done.stderr


@pytest.mark.integration
@pytest.mark.timeout(60)
async def test_what_waits_in_parcels_is_counted_and_taken_back_one_by_one(
    topology: Topology,
) -> None:
    """`cancel` takes what is meant out of a parcel; the rest stays as it was, and is counted."""
    async with open_sites(topology, nowhere()) as sites:
        await deployed(sites, topology)
        east = sites["east"]
        broker = await east.broker()
        alone = Entry(subject=east.names.out("west", "fail"), body=b"a", headers=_root("a", "r1"))
        both = [
            Entry(subject=alone.subject, body=b"%d" % n, headers=_root(f"m{n}", f"r{n % 2}"))
            for n in range(5)
        ]
        mine = [
            Entry(subject=alone.subject, body=b"%d" % n, headers=_root(f"o{n}", "r1"))
            for n in range(3)
        ]
        assert await broker.write([alone, seal(both), seal(mine)]) is None
        before = (await east.outgoing(), await broker.waiting_to("west"))
        chosen = Selection(root="r1")
        taken, _ = await recalled(east, broker, chosen)
        after = (await east.outgoing(), await broker.waiting_to("west"))
        (left,) = await broker.read_all(east.names.out("*", ">"))

    assert (before, after) == (({"west": 9}, 9), ({"west": 3}, 3))
    assert sorted(taken) == ["a", "m1", "m3", "o0", "o1", "o2"]
    raw = Raw(subject=left.subject, body=left.body, headers=left.headers)
    assert [(one.body, one.headers) for one in unpack(raw, 3)] == [
        (both[n].body, both[n].headers) for n in (0, 2, 4)
    ]


@pytest.mark.integration
@pytest.mark.timeout(60)
async def test_what_has_got_away_from_a_courier_stays_in_its_parcel(topology: Topology) -> None:
    """Of a parcel that is carried in part the rest is taken back, and the others are told of.

    A message without an id is named by its place: it and its neighbours stay where they are.
    """
    async with open_sites(topology, nowhere()) as sites:
        await deployed(sites, topology)
        east = sites["east"]
        broker = await east.broker()
        subject = east.names.out("west", "fail")
        inside = [Entry(subject=subject, body=b"x", headers=_root(f"m{n}", "r1")) for n in range(4)]
        nameless = Entry(subject=subject, body=b"x", headers={ROOT: "r1"})
        assert await broker.write([seal(inside), seal([inside[3], nameless])]) is None
        first, second = await broker.read_all(east.names.out("*", ">"))

        async def courier(_: bytes) -> bytes:
            return msgspec.json.encode({first.sequence: [0, 2]})

        await broker.serve(WITHDRAW, courier)
        taken, underway = await recalled(east, broker, Selection(root="r1"))
        stays, left = await broker.read_all(east.names.out("*", ">"))

    assert (sorted(taken), sorted(underway)) == (["m1", "m3"], ["m0", "m2"])
    assert (stays.sequence, stays.body) == (second.sequence, second.body)
    raw = Raw(subject=left.subject, body=left.body, headers=left.headers)
    assert [one.headers[MSG_ID] for one in unpack(raw, 2)] == ["m0", "m2"]


async def recalled(
    site: Site, broker: JetStreamBroker, chosen: Selection
) -> tuple[list[str], list[str]]:
    """Take back what waits to be carried; return what was had, and what had got away."""
    taken, underway = list[str](), list[str]()
    for way in (site.names.out("*", "*"), site.names.parcel("*", "*")):
        async for swept in recall(site, broker, chosen, way):
            taken += [message.id for message in swept.cancelled]
            underway += [message.id for message in swept.underway]
    return taken, underway


def _root(message_id: str, root: str) -> dict[str, str]:
    return {MSG_ID: message_id, ROOT: root}


def _has_results(kept: Kept) -> bool:
    return SHOUTED in command("results", "relay", "--nats", kept.url("hub")).stdout


def _waiting(kept: Kept, module: str) -> int:
    (status,) = printed("status", "relay", "--nats", kept.url("hub"))
    return sum(int(str(m["waiting"])) for m in _list(status["modules"]) if m["module"] == module)


def _list(value: object) -> Sequence[dict[str, object]]:
    return msgspec.convert(value, list[dict[str, object]])
