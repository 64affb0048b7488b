"""What inspect tells of a container, and how it is read as an end."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from scalebox_actors.ports import Exit, Stray
from scalebox_actors.runtimes.docker_body import WORK

TERMINATED, KILLED = 143, 137


class State(msgspec.Struct, frozen=True, rename="pascal"):
    """How a container is."""

    status: str = ""
    running: bool = False
    o_o_m_killed: bool = msgspec.field(default=False, name="OOMKilled")
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""


class Config(msgspec.Struct, frozen=True, rename="pascal"):
    """What a container was made from, as far as we compare it."""

    labels: dict[str, str] | None = None


class HostConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """How a container was to be run, as far as we read it."""

    cgroup_parent: str = ""


class MountPoint(msgspec.Struct, frozen=True, rename="pascal"):
    """A mount of a container."""

    source: str = ""
    destination: str = ""


class Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer to inspect, as far as we read it."""

    id: str
    created: str = ""
    state: State = State()
    config: Config = Config()
    mounts: list[MountPoint] = []
    host_config: HostConfig = HostConfig()

    @property
    def parent(self) -> str:
        """The control group that its own was made in."""
        return self.host_config.cgroup_parent

    @property
    def labels(self) -> dict[str, str]:
        """The container's labels."""
        return self.config.labels or {}

    @property
    def work(self) -> str:
        """The work directory on the host."""
        return next((m.source for m in self.mounts if m.destination == WORK), "")

    @property
    def waits_for_start(self) -> bool:
        """Whether it was created and never ran."""
        return self.state.status in ("created", "configured", "initialized")

    @property
    def ended(self) -> bool:
        """Whether it ran and does so no more."""
        return self.state.status in ("exited", "stopped", "dead", "removing")


read_inspected = msgspec.json.Decoder(Inspected).decode


def attempt_of(labels: Mapping[str, str]) -> int:
    """Read the number of the attempt that a container is of; 0 for a label that is none of ours."""
    try:
        return int(labels.get("sbx.attempt", "1"))
    except ValueError:
        return 0


def seconds(text: str) -> float:
    """Read the engine's time; 0 for the year 1, which stands for never."""
    if not text or text.startswith("0001"):
        return 0.0
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def booted() -> float:
    """Return when this host was started."""
    try:
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return 0.0
    return time.time() - uptime


def exit_of(
    found: Inspected, *, signalled: bool = False, unseen: bool = False, boot: float = 0.0
) -> Exit:
    """Read how a container ended.

    `signalled`: somebody else, or an engine that stops, was seen to tell it to end; whatever code
    it then found is no verdict but success. `unseen`: nobody saw who ended it; an exit by a signal
    that ends is then no verdict, nor is one that was noted after a start of the host.
    """
    state = found.state
    started, finished = seconds(state.started_at), seconds(state.finished_at)
    by_signal = state.exit_code in (KILLED, TERMINATED)
    outside = (signalled and state.exit_code != 0) or (unseen and by_signal)
    rebooted = 0.0 < started < boot <= finished
    lost = rebooted or (outside and not state.o_o_m_killed)
    return Exit(
        code=state.exit_code,
        out_of_memory=state.o_o_m_killed,
        lost=lost,
        started=started,
        finished=max(started, finished),  # the engine's two clocks differ by milliseconds
        detail="ended from outside, or with the engine" if lost else state.error,
    )


class Listed(msgspec.Struct, rename="pascal"):
    """A container as a list has it."""

    id: str
    names: list[str]


def stray_of(found: Inspected, name: str) -> Stray:
    """Return what the reaper is told of a container."""
    finished = seconds(found.state.finished_at) or seconds(found.created)
    return Stray(
        name=name,
        labels=found.labels,
        running=not (found.ended or found.waits_for_start),
        finished=0.0 if found.state.running else finished,
    )
