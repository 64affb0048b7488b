"""What the doctor says: each thing that could be better, how, and what is fatal."""

from pathlib import Path

import msgspec
import pytest

from scalebox_actors import survey as survey_module
from scalebox_actors.advice import Advice, Level, advise, usable
from scalebox_actors.cli.doctor import fields, lines_of
from scalebox_actors.errors import RuntimeUnavailable
from scalebox_actors.facts import EngineFacts, Facts, HostFacts, Place
from scalebox_actors.limits import FREE_SPACE, MIB
from scalebox_actors.runtimes import choose
from scalebox_actors.runtimes.oci_config import Traits
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.survey import (
    clock_is_kept,
    kind_of,
    mounts_of,
    nats_version,
    place_of,
    time_of_a_sync,
)

MEMORY = Place(path="/w", kind="tmpfs", device=1, free=1024 * MIB * 64)
DISK = Place(path="/s", kind="ext4", device=2, free=1024 * MIB * 64, sync=0.001)
HOST = HostFacts(
    uid=0, cgroups="v2", open_files=65_536, work=MEMORY, store=DISK, data=MEMORY, clock=True,
    uvloop="0.21", nats_server="2.15.1", nats_oldest="2.14", machine="aarch64",
)  # fmt: skip
ENGINE = EngineFacts(
    host="unix:///s", name="docker", version="27.1", runtimes=("crun", "runc"),
    default_runtime="runc", live_restore=True, cgroup_driver="cgroupfs", cgroup_version="2",
    storage_driver="overlay2", log_drivers=("local",), log_driver="local", rootless=True,
)  # fmt: skip
BEST = Facts(host=HOST, engine=ENGINE)


def host(**changed: object) -> Facts:
    """Return facts that are the best but for something of the host."""
    return Facts(host=msgspec.structs.replace(HOST, **changed), engine=ENGINE)


def engine(**changed: object) -> Facts:
    """Return facts that are the best but for something of the engine."""
    return Facts(host=HOST, engine=msgspec.structs.replace(ENGINE, **changed))


def remarks(facts: Facts) -> list[Advice]:
    """Return what is not well."""
    return [one for one in advise(facts) if one.level is not Level.OK]


def test_a_host_that_is_well_is_told_nothing() -> None:
    """The best facts give no advice, and everything that was looked at is listed."""
    looked_at = {one.topic for one in advise(BEST)}

    assert remarks(BEST) == []
    assert {"engine", "runtime", "cgroups", "usage", "storage", "server", "clock"} <= looked_at
    assert usable(advise(BEST))


@pytest.mark.parametrize(
    ("facts", "level", "topic", "words"),
    [
        pytest.param(engine(runtimes=("runc",)), Level.SHOULD, "runtime", "170 ms", id="no-crun"),
        pytest.param(
            engine(name="podman", runtimes=("runc",)), Level.SHOULD, "runtime", "containers.conf",
            id="podman-no-crun",
        ),
        pytest.param(engine(live_restore=False), Level.SHOULD, "restarts", "live-restore"),
        pytest.param(engine(host="tcp://e:1"), Level.SHOULD, "connection", "own host"),
        pytest.param(engine(storage_driver="vfs"), Level.SHOULD, "storage", "overlay2"),
        pytest.param(engine(log_driver=""), Level.SHOULD, "logs", "json-file"),
        pytest.param(engine(rootless=False), Level.COULD, "rights", "rootless"),
        pytest.param(engine(cgroup_version="1"), Level.COULD, "usage", "cgroup v2"),
        pytest.param(engine(usage_fault="systemd"), Level.SHOULD, "usage", "cgroupfs"),
        pytest.param(
            engine(usage_fault="systemd", name="podman"), Level.SHOULD, "usage", "cgroup_manager"
        ),
        pytest.param(engine(unlimited=("memory",)), Level.SHOULD, "cgroups", "no limits of memory"),
        pytest.param(host(engine_cgroups="hybrid"), Level.SHOULD, "cgroups", "refuses a hybrid"),
        pytest.param(host(machine="x86_64"), Level.COULD, "seccomp", "--seccomp deny-list"),
        pytest.param(host(open_files=1024), Level.SHOULD, "open files", "LimitNOFILE"),
        pytest.param(host(clock=False), Level.SHOULD, "clock", "chrony"),
        pytest.param(host(data=DISK), Level.COULD, "engine's disk", "tuned"),
        pytest.param(
            host(data=msgspec.structs.replace(DISK, sync=0.02)), Level.SHOULD, "engine's disk",
            "20.0 ms", id="slow-engine-disk",
        ),
        pytest.param(
            host(store=msgspec.structs.replace(DISK, sync=0.02)), Level.SHOULD, "server's disk",
            "20.0 ms", id="slow-server-disk",
        ),
        pytest.param(host(work=DISK), Level.COULD, "work directories", "--work"),
        pytest.param(
            host(work=msgspec.structs.replace(MEMORY, free=2 * FREE_SPACE)), Level.SHOULD,
            "free space", "512 MiB", id="little-space",
        ),
        pytest.param(
            host(work=msgspec.structs.replace(MEMORY, free=FREE_SPACE - 1)), Level.BAD,
            "free space", "256 MiB", id="no-space",
        ),
        pytest.param(host(nats_server="2.10.9"), Level.BAD, "server", "2.14 or later"),
        pytest.param(host(nats_server=""), Level.SHOULD, "server", "--nats"),
        pytest.param(host(uvloop=""), Level.BAD, "event loop", "pip install"),
        pytest.param(Facts(host=HOST), Level.BAD, "engine", "docker.io and crun", id="no-engine"),
        pytest.param(
            Facts(host=HOST, engine_fault="it is down"), Level.BAD, "engine", "it is down"
        ),
        pytest.param(
            Facts(host=HOST, runtime="process"), Level.COULD, "engine", "no isolation"
        ),
    ],
)  # fmt: skip
def test_what_could_be_better_is_said(facts: Facts, level: Level, topic: str, words: str) -> None:
    """One thing that is wrong gives one advice that says what mends it; only `bad` is fatal."""
    [remark] = remarks(facts)

    assert (level, topic) == (remark.level, remark.topic)
    assert words in f"{remark.found} {remark.advice} {remark.gain}"
    assert remark.advice
    assert usable(advise(facts)) == (level is not Level.BAD)


@pytest.mark.parametrize("version", ["2.14", "2.14.0", "2.14.1-RC.1", "v2.20.3", "3.0"])
def test_a_server_that_is_new_enough(version: str) -> None:
    """Versions are compared by their numbers, not by their letters."""
    assert remarks(host(nats_server=version)) == []


def test_the_worst_comes_first() -> None:
    """A person reads from the top."""
    facts = Facts(host=msgspec.structs.replace(HOST, work=DISK, clock=False, machine="x86_64"))
    levels = [one.level for one in advise(facts)]

    assert levels == sorted(levels, key=list(Level).index, reverse=True)
    assert levels[0] is Level.BAD


def test_it_is_shown_to_people_and_programs() -> None:
    """The same is in the lines and in the record; no engine's name moves a cursor."""
    facts = engine(version="27\x1b[2J", live_restore=False)
    advice = advise(facts)
    record = fields(facts, advice)

    assert record["usable"] is True
    assert any(line.startswith("should  restarts") for line in lines_of(advice))
    assert "\x1b" not in "".join(lines_of(advice))


def test_what_is_said_fits_into_a_terminal() -> None:
    """No line is wider than 80 columns, and no word is lost or cut for that."""
    facts = msgspec.structs.replace(BEST, engine=None, engine_fault="w" * 100)
    advice = advise(facts)
    lines = lines_of(advice)
    said = "".join("".join(lines).split())
    rows = [row for one in advice for row in (one.topic + one.found, one.advice, one.gain)]

    assert max(map(len, lines)) <= 80
    assert all("".join(row.split()) in said for row in rows)


MOUNTS = "/dev/a / ext4 rw 0 0\nnone /dev/shm tmpfs rw 0 0\nnone /data/x xfs rw 0 0\nodd\n"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", "ext4"), ("/dev/shm/sbx", "tmpfs"), ("/data/x", "xfs"), ("/data/xy", "ext4")],
)
def test_the_file_system_of_a_path(path: str, expected: str) -> None:
    """The innermost mount that a path lies below says what it is on."""
    assert expected == kind_of(Path(path), MOUNTS)


def test_a_place_that_is_not_there_yet_is_looked_at_above(tmp_path: Path) -> None:
    """A work directory is made later, on the disk of the folder above it; nothing is left."""
    place = place_of(tmp_path / "a" / "b")

    assert place.device == tmp_path.stat().st_dev
    assert place.free > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_has_no_time() -> None:
    """What cannot be tried is not known."""
    assert time_of_a_sync(Path("/proc/self")) is None


def test_containers_without_a_daemon_need_no_engine() -> None:
    """What starts them is told in the engine's place, and nothing of an engine is asked."""
    bare = msgspec.structs.replace(HOST, data=None)
    facts = Facts(host=bare, runtime="oci", oci="/usr/bin/crun")
    found = {one.topic: one.found for one in advise(facts)}

    assert usable(advise(facts))
    assert found["engine"] == "no daemon: /usr/bin/crun"
    assert "disk of each run" in found["usage"]
    assert not {"storage", "restarts", "rights", "engine's disk"} & set(found)


def test_what_containers_lack_without_root_is_said() -> None:
    """They run all the same; who needs limits learns what it takes."""
    user = msgspec.structs.replace(HOST, uid=1000, data=None)
    found = advise(Facts(host=user, runtime="oci", oci="/usr/bin/crun"))

    assert usable(found)
    assert [one.advice for one in found if one.topic == "limits"] == [
        "the node as root where modules need limits; else --unlimited does without"
    ]


def test_what_containers_without_a_daemon_lack_is_fatal() -> None:
    """A host without crun is told so, also where an engine did not answer before."""
    facts = Facts(host=HOST, engine_fault="no engine", oci_fault="there is no crun")
    bad = [one for one in advise(facts) if one.level is Level.BAD]

    assert [one.found for one in bad] == ["no daemon: there is no crun"]


async def containers_start(_: ImageStore) -> None:
    """Stand for a host on which they do."""


async def test_the_runtime_that_was_asked_for_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for `oci` the engine is left alone; without an engine `oci` is taken if it has images.

    Who names an engine by DOCKER_HOST wants that one.
    """
    place = tmp_path / "store/images/12"
    place.mkdir(parents=True)
    (tmp_path / "store").chmod(0o700)
    (place / "image.json").write_text('{"digest": "sha256:12"}')
    traits = Traits(runtime=("/bin/crun",), init="/bin/tini", seccomp=None)
    monkeypatch.setattr(survey_module, "look_around", lambda: traits)
    monkeypatch.setattr(survey_module, "try_out", containers_start)
    monkeypatch.setattr(choose, "has_runtime", lambda: True)
    monkeypatch.delenv("DOCKER_HOST", raising=False)

    async def no_engine() -> EngineFacts:
        raise RuntimeUnavailable("no engine answers")

    monkeypatch.setattr(survey_module, "survey_engine", no_engine)

    async def seen(runtime: str | None, store: str) -> tuple[bool, str]:
        facts = await survey_module.survey(runtime, tmp_path, tmp_path, tmp_path / store)
        return facts.oci.startswith("/bin/crun; "), facts.engine_fault

    assert await seen("oci", "store") == (True, "")
    assert await seen(None, "store") == (True, "no engine answers")
    assert await seen(None, "absent") == (False, "no engine answers")
    assert await seen("docker", "store") == (False, "no engine answers")

    async def none_starts(_: ImageStore) -> None:
        raise RuntimeUnavailable("none starts")

    monkeypatch.setattr(survey_module, "try_out", none_starts)
    facts = await survey_module.survey("oci", tmp_path, tmp_path, tmp_path / "store")
    assert (facts.oci, facts.oci_fault) == ("", "none starts")
    monkeypatch.setenv("DOCKER_HOST", "unix:///absent")
    assert await seen(None, "store") == (False, "no engine answers")


def test_this_host_can_be_asked() -> None:
    """The bundled server tells its version; an engine elsewhere has no mounts that we see."""
    assert nats_version().startswith("2.")
    assert clock_is_kept() in (True, False, None)
    assert mounts_of(None) == ""
    assert mounts_of(msgspec.structs.replace(ENGINE, host="tcp://e:1")) == ""
    assert mounts_of(msgspec.structs.replace(ENGINE, host="unix:///absent")) == ""
