"""Several sites on one machine: a server and a node each, real leaf links."""

import json
from pathlib import Path

import msgspec
import pytest
from integration.relays import (
    RELAY,
    SHOUTED,
    command,
    deployed,
    load_relay,
    nowhere,
    printed,
    write_relay,
)

from scalebox_actors.broker import ensure
from scalebox_actors.errors import BadInput
from scalebox_actors.local import open_sites
from scalebox_actors.names import Names
from scalebox_actors.ports import Entry
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PRIMES_TO_100000 = "9592"

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


@pytest.fixture
def relay(tmp_path: Path) -> Path:
    """Return a topology file: from the hub to two sites and back."""
    return write_relay(tmp_path)


@pytest.fixture
def topology() -> Topology:
    """Return the relay, loaded."""
    return load_relay()


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
@pytest.mark.timeout(60)
async def test_a_site_has_the_subjects_of_its_modules_alone(topology: Topology) -> None:
    """Each stream takes tasks of its own modules, and of the others only to be carried."""
    async with open_sites(topology, nowhere()) as sites:
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
    async with open_sites(topology, nowhere()) as sites:
        await deployed(sites, topology)
        east = sites["east"]
        subject = Names("relay", "east").out("west", "fail")
        assert await (await east.broker()).write([Entry(subject=subject, body=b"x")]) is None

        with pytest.raises(BadInput, match=r"fail at west \(1 waiting\)"):
            await ensure(east.link, moved, east.names)

        await (await east.broker()).purge(subject)
        await ensure(east.link, moved, east.names)


def _texts(value: object) -> list[str]:
    return msgspec.convert(value, list[str])
