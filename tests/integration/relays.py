"""A relay from the hub to two sites and back, and the command that runs it and looks at it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from scalebox_actors.broker import ensure
from scalebox_actors.local import Reach, Site
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

MAIN = "import sys; from scalebox_actors.cli import main; sys.exit(main())"
PROGRAM = (sys.executable, "-c", MAIN)
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


def write_relay(folder: Path) -> Path:
    """Write the relay and its functions, and return its file."""
    (folder / "work.py").write_text(WORK)
    path = folder / "relay.yaml"
    path.write_text(RELAY)
    return path


def load_relay() -> Topology:
    """Return the relay, loaded."""
    return load(RELAY.encode(), path="relay")


def nowhere() -> Reach:
    """Return what opens sites that leave nothing behind."""
    return Reach(store=Path(os.devnull), ephemeral=True)


async def deployed(sites: dict[str, Site], topology: Topology) -> None:
    """Deploy at every site."""
    for site in sites.values():
        await ensure(site.link, topology, site.names)
