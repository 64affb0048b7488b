"""F10, F11: who watches over the links of a site closes one that is dead, and none that is slow."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from faults.crossing import Traffic, traffic
from faults.process import until
from faults.stage import show

from scalebox_actors.keys.folder import make_keys
from scalebox_actors.testing.wire import Namespaces, VethWire
from scalebox_actors.topology.load import load

NOTICED = 12.0
"""A ping every 5 s, 3 s without an answer, and a busy machine."""
AGAIN = 5.0
BANDWIDTH, LOSS = 64_000, 0.05
TOPOLOGY = """
topology: t
sites:
  hub: {{hub: true, address: "{hub}:7422", listen: "0.0.0.0:4222"}}
  a: {{listen: "0.0.0.0:4222"}}
modules:
  m: {{site: hub, function: "m:m"}}
"""


@pytest.fixture(autouse=True)
def root(cannot_run: Callable[[str], NoReturn]) -> None:
    """Network namespaces are possible."""
    if os.geteuid() or not all(map(shutil.which, ("ip", "iptables", "tc"))):
        cannot_run("network namespaces need root, ip, iptables and tc")


class Deployment:
    """Two sites as an operator starts them, with keys and TLS, each in a namespace of its own."""

    def __init__(self, folder: Path, spaces: Namespaces) -> None:
        self.folder, self.spaces = folder, spaces
        text = TOPOLOGY.format(hub=spaces.hub_seen_by("a"))
        (folder / "topology.yaml").write_text(text)
        make_keys(load(text.encode(), path="t"), folder / "keys")
        self.processes = [self._start(site) for site in ("hub", "a")]

    def said(self, site: str, word: str) -> bool:
        """Whether `sbx-actor server` has said a word."""
        return word in (self.folder / f"{site}.log").read_text()

    def links(self) -> int:
        """Return how often the leaf has made its link."""
        path = self.folder / "a" / "nats.log"
        return path.read_text().count("Leafnode connection created") if path.exists() else 0

    def joined(self) -> bool:
        """Whether both servers have greeted; one that is cut before NATS gives up by itself."""
        logs = (self.folder / site / "nats.log" for site in ("hub", "a"))
        return all("JetStream using domains" in path.read_text() for path in logs)

    def stop(self) -> None:
        """End both."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(20)

    def _start(self, site: str) -> subprocess.Popen[bytes]:
        command = "import sys; from scalebox_actors.cli import main; sys.exit(main())"
        words = ["server", "topology.yaml", "--site", site, "--keys", "keys", "--store", site]
        with (self.folder / f"{site}.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - our own program
                ["ip", "netns", "exec", self.spaces.names[site],  # noqa: S607
                 sys.executable, "-c", command, *words],
                cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Both servers, joined and with their streams."""
    spaces = Namespaces(f"{os.getpid() % 10_000:04d}", "hub", ("a",))
    with contextlib.closing(spaces):
        two = Deployment(tmp_path, spaces)
        try:
            yield two
        finally:
            two.stop()


@pytest.fixture
async def packets(tmp_path: Path) -> AsyncIterator[Traffic]:
    """Traffic over four sites in network namespaces."""
    async with traffic(tmp_path, namespaces=True) as opened:
        yield opened


async def test_a_server_makes_a_dead_link_anew(deployment: Deployment) -> None:
    """F10: `sbx-actor server` at both ends notices by itself, and is linked soon after the heal."""
    for site in ("hub", "a"):
        await until(partial(deployment.said, site, "deployed"), "deployed", seconds=30)
    await until(deployment.joined, "linked", seconds=10)
    wire = deployment.spaces.wire("a")
    wire.silence()
    noticed = await until(partial(deployment.said, "a", "link_silent"), "noticed", seconds=NOTICED)
    wire.heal()
    linked = await until(lambda: deployment.links() > 1, "linked again", seconds=AGAIN)
    show("F10 server", noticed=noticed, linked=linked)

    assert deployment.said("a", "sbx-hub at ")
    assert not any(deployment.said(site, "links_not_watched") for site in ("hub", "a"))


async def test_a_link_that_is_slow_and_loses_packets_is_left_alone(packets: Traffic) -> None:
    """F11: at 64 kB/s, with every twentieth packet lost, a link is used and never closed."""
    for wire in packets.lab.wires.values():
        assert isinstance(wire, VethWire)
        wire.worsen(BANDWIDTH, LOSS)
    packets.tick = 0.05
    await packets.flow(8)
    took = await packets.arrived()
    show("F11 packets", resumed=took, roots=packets.roots)
    papers, lost, doubled = await packets.audit()

    assert (lost, doubled) == (0, 0)
    assert [str(paper) for paper in papers if not paper.agrees] == []
    assert [event for event in packets.lab.events if event[0] == "link_silent"] == []
