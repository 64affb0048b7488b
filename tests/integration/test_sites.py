"""Several sites on one machine: a server and a node each, real leaf links, one view over all."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from scalebox_actors import operations
from scalebox_actors.broker import ensure
from scalebox_actors.errors import BadInput
from scalebox_actors.local import Reach, Site, open_sites, site_folder
from scalebox_actors.message import MSG_ID, ROOT, Raw
from scalebox_actors.names import Names
from scalebox_actors.operations import Selection
from scalebox_actors.parcel import seal, unpack
from scalebox_actors.ports import Entry
from scalebox_actors.server import running
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MAIN = "import sys; from scalebox_actors.cli import main; sys.exit(main())"
PROGRAM = (sys.executable, "-c", MAIN)
PRIMES_TO_100000 = "9592"
SOON = 30.0

RELAY = """
topology: relay
sites:
  hub: {hub: true}
  east:
  west:
modules:
  split: {function: "work:split", site: hub, sinks: [shout]}
  shout: {function: "work:shout", sites: [east, west], route: spread, sinks: [gather]}
  gather: {function: "work:gather", site: hub, gather: {by: root, count: 20}}
  fail: {function: "work:fail", site: west, retry: {"*": 0}}
"""
WORK = """
import asyncio
import json

async def split(message):
    return [f"n{number}" for number in range(20)]

async def shout(message):
    return message.body.upper()

async def gather(message):
    return " ".join(sorted(json.loads(message.body)["members"]))

async def pace(message):
    await asyncio.sleep(0.2)
    return message.body

async def slow(message):
    await asyncio.sleep(0.5)
    return message.body

async def fail(message):
    raise ValueError("as it should")
"""
HELPED = """
topology: helped
sites:
  hub: {hub: true}
  east:
modules:
  split: {function: "work:split", site: hub, sinks: [pace]}
  pace: {function: "work:pace", site: hub, slots: 1, sinks: [slow]}
  slow: {function: "work:slow", sites: [hub, east], slots: 1, overflow: {pending: 1}}
"""
SHOUTED = " ".join(sorted(f"N{number}" for number in range(20)))


def command(*arguments: str, seconds: float = SOON) -> subprocess.CompletedProcess[str]:
    """Run `sbx-actor` to its end."""
    return subprocess.run(  # noqa: S603 - our own program
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=seconds, check=False
    )


def printed(*arguments: str) -> list[dict[str, object]]:
    """Return the records that a command prints; it must succeed."""
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def relay(tmp_path: Path) -> Path:
    """Return a topology file: from the hub to two sites and back."""
    (tmp_path / "work.py").write_text(WORK)
    path = tmp_path / "relay.yaml"
    path.write_text(RELAY)
    return path


@pytest.fixture
def topology() -> Topology:
    """Return the relay, loaded."""
    return load(RELAY.encode(), path="relay")


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


RELAY_SITES = ("hub", "east", "west")


@pytest.mark.integration
@pytest.mark.timeout(90)
def test_primes_are_counted_at_two_sites_and_added_up_at_the_hub(tmp_path: Path) -> None:
    """One command starts three sites; parts cross the links, come back, and the sum is right."""
    arguments = (
        *("run", str(EXAMPLES / "two-sites/topology.yaml"), "--send", "split", "100000"),
        *("--runtime", "process", "--set", f"APP={EXAMPLES / 'primes/app'}"),
        *("--store", str(tmp_path / "store")),
    )

    done = command(*arguments, seconds=80)

    assert (done.stdout.strip(), done.returncode) == (PRIMES_TO_100000, 0), done.stderr
    records = printed("trace", "two-sites", "--store", str(tmp_path / "store"))
    assert {r["module"]: r["verdict"] for r in records} == dict.fromkeys(
        ("split", "count", "total"), "done"
    )
    nodes = {str(r["node"]).partition("-")[0] for r in records if r["module"] == "count"}
    assert nodes == {"east", "west"}


def stand_ins(app: Path) -> None:
    """Write programs that send on what the genomics pipeline would, and compute nothing."""
    app.mkdir()
    lines: dict[str, list[dict[str, object]]] = {
        "split.py": [{"body": f"c{n}", "headers": {"_chunks": "5"}} for n in range(5)],
        "merge.py": [{"body": "merged", "module": sink} for sink in ("flagstat", "call")],
    }
    for name, sent in lines.items():
        text = "".join(json.dumps(line) + "\n" for line in sent)
        code = (
            f"import os\nopen(os.environ['WORK_DIR'] + '/sink-tasks.jsonl', 'w').write({text!r})\n"
        )
        (app / name).write_text(code)
    for name in ("align", "sort", "flagstat", "call"):
        line = f'{{\\"body\\": \\"$1-{name}\\"}}'
        (app / f"{name}.sh").write_text(f'echo "{line}" > $WORK_DIR/sink-tasks.jsonl\n')


@pytest.mark.integration
@pytest.mark.timeout(90)
def test_from_leaf_to_leaf_by_way_of_the_hub(tmp_path: Path) -> None:
    """The three-sites example: what one leaf sends to another passes the hub, and groups meet."""
    stand_ins(tmp_path / "app")
    (tmp_path / "data").mkdir()
    arguments = (
        *("run", str(EXAMPLES / "three-sites/topology.yaml"), "--send", "split", "phage 5"),
        *("--runtime", "process", "--set", f"APP={tmp_path / 'app'}"),
        *("--set", f"DATA={tmp_path / 'data'}", "--mount-root", f"data={tmp_path / 'data'}:rw"),
        *("--store", str(tmp_path / "store")),
    )

    done = command(*arguments, seconds=80)

    assert sorted(done.stdout.split()) == ["merged-call", "merged-flagstat"], done.stderr
    records = printed("trace", "three-sites", "--store", str(tmp_path / "store"))
    ran = {str(r["module"]): str(r["node"]).partition("-")[0] for r in records}
    assert ran == {
        **dict.fromkeys(("split", "call"), "lab"),
        "align": "fast",
        **dict.fromkeys(("sort", "merge", "flagstat"), "archive"),
    }
    (site,) = printed("status", "--store", str(tmp_path / "store"))
    assert site["topology"] == "three-sites"


@pytest.mark.integration
@pytest.mark.timeout(90)
def test_an_ephemeral_run_needs_no_folder(relay: Path) -> None:
    """`--ephemeral` works over several sites, and each message goes to one place only."""
    done = command("run", str(relay), "--ephemeral", "--send", "split", "x", "--send", "fail", "x")

    assert done.stdout.strip() == SHOUTED, done.stderr
    assert "22 tasks done, 1 failed" in done.stderr  # split, 20 parts, their sum; and one dead
    assert done.returncode == 1


@pytest.mark.integration
@pytest.mark.timeout(90)
def test_another_site_helps_when_too_much_waits(relay: Path, tmp_path: Path) -> None:
    """With `overflow`, what is more than one site can do goes to the other one, once."""
    (tmp_path / "helped.yaml").write_text(HELPED)
    store = ("--store", str(tmp_path / "store"))

    done = command("run", str(relay.with_name("helped.yaml")), *store, "--send", "split", "x")

    assert sorted(done.stdout.split()) == sorted(f"n{number}" for number in range(20)), done.stderr
    records = printed("trace", "helped", *store)
    nodes = [str(r["node"]).partition("-")[0] for r in records if r["module"] == "slow"]
    assert {"hub", "east"} == set(nodes)


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


async def deployed(sites: dict[str, Site], topology: Topology) -> None:
    """Deploy at every site."""
    for site in sites.values():
        await ensure(site.link, topology, site.names)


@pytest.mark.integration
@pytest.mark.timeout(60)
async def test_a_site_has_the_subjects_of_its_modules_alone(topology: Topology) -> None:
    """Each stream takes tasks of its own modules, and of the others only to be carried."""
    async with open_sites(topology, _nowhere()) as sites:
        await deployed(sites, topology)
        info = await sites["east"].link.api("STREAM.INFO.SBX_relay_AT_east")

    config = msgspec.convert(info["config"], dict[str, object])
    subjects = {s for s in _texts(config["subjects"]) if ".task." in s or ".out." in s}
    assert subjects == {
        "sbx.relay.east.task.shout",
        "sbx.relay.east.out.hub.split",
        "sbx.relay.east.out.hub.split.*",
        "sbx.relay.east.out.hub.gather",
        "sbx.relay.east.out.hub.gather.*",
        "sbx.relay.east.out.west.shout",
        "sbx.relay.east.out.west.shout.*",
        "sbx.relay.east.out.west.fail",
        "sbx.relay.east.out.west.fail.*",
    }


@pytest.mark.integration
@pytest.mark.timeout(60)
async def test_a_module_leaves_a_site_only_when_nothing_is_bound_for_it(topology: Topology) -> None:
    """Moving a module away from where messages are bound is refused, with their number."""
    moved = load(RELAY.replace("site: west", "site: hub").encode(), path="moved")
    async with open_sites(topology, _nowhere()) as sites:
        await deployed(sites, topology)
        east = sites["east"]
        subject = Names("relay", "east").out("west", "fail")
        assert await (await east.broker()).write([Entry(subject=subject, body=b"x")]) is None

        with pytest.raises(BadInput, match=r"fail at west \(1 waiting\)"):
            await ensure(east.link, moved, east.names)

        await (await east.broker()).purge(subject)
        await ensure(east.link, moved, east.names)


@pytest.mark.integration
@pytest.mark.timeout(60)
async def test_what_waits_in_parcels_is_counted_and_taken_back_one_by_one(
    topology: Topology,
) -> None:
    """`cancel` takes what is meant out of a parcel; the rest stays as it was, and is counted."""
    async with open_sites(topology, _nowhere()) as sites:
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
        taken = [message.id async for message in operations.recall(east, broker, chosen)]
        after = (await east.outgoing(), await broker.waiting_to("west"))
        (left,) = await broker.read_all(east.names.out("*", ">"))

    assert (before, after) == (({"west": 9}, 9), ({"west": 3}, 3))
    assert sorted(taken) == ["a", "m1", "m3", "o0", "o1", "o2"]
    raw = Raw(subject=left.subject, body=left.body, headers=left.headers)
    assert [(one.body, one.headers) for one in unpack(raw, 3)] == [
        (both[n].body, both[n].headers) for n in (0, 2, 4)
    ]


def _root(message_id: str, root: str) -> dict[str, str]:
    return {MSG_ID: message_id, ROOT: root}


def _nowhere() -> Reach:
    return Reach(store=Path(os.devnull), ephemeral=True)


def _has_results(kept: Kept) -> bool:
    return SHOUTED in command("results", "relay", "--nats", kept.url("hub")).stdout


def _waiting(kept: Kept, module: str) -> int:
    (status,) = printed("status", "relay", "--nats", kept.url("hub"))
    return sum(int(str(m["waiting"])) for m in _list(status["modules"]) if m["module"] == module)


def _list(value: object) -> Sequence[dict[str, object]]:
    return msgspec.convert(value, list[dict[str, object]])


def _texts(value: object) -> list[str]:
    return msgspec.convert(value, list[str])
