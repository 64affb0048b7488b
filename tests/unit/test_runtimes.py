"""The pure parts of the runtimes: tables, request bodies, frames, times, mounts."""

import json
import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.errors import BadInput, NotPermitted
from scalebox_actors.ports import Exit, Logs
from scalebox_actors.runtimes.cgroups import Cgroups, Layout
from scalebox_actors.runtimes.choose import open_runtime
from scalebox_actors.runtimes.docker_answers import Kind, Step, read_answer
from scalebox_actors.runtimes.docker_body import Program, Traits, create_body
from scalebox_actors.runtimes.docker_inspect import (
    Config,
    Inspected,
    State,
    exit_of,
    read_inspected,
    seconds,
)
from scalebox_actors.runtimes.docker_logs import Frames
from scalebox_actors.runtimes.docker_usage import Meter, fault_of
from scalebox_actors.runtimes.init_words import init_failure, judged, judged_end
from scalebox_actors.runtimes.mounts import check_root, real_mounts
from scalebox_actors.spec import ContainerSpec, Mount

SPEC = ContainerSpec(
    name="sbx-t.m.one",
    image="img",
    command=("a", "b"),
    env={"A": "1"},
    labels={"sbx.topology": "t"},
    work="/base/one/1",
)


@pytest.mark.parametrize(
    ("step", "status", "text", "expected"),
    [
        (Step.CREATE, 404, "No such image: nope:latest", Kind.IMAGE_MISSING),
        (Step.CREATE, 404, "no such image: nope: image not known", Kind.IMAGE_MISSING),
        (Step.CREATE, 409, "Conflict. The container name is already in use", Kind.NAME_TAKEN),
        (Step.CREATE, 500, "the container name is already in use by x", Kind.NAME_TAKEN),
        (Step.CREATE, 400, "invalid reference format: must be lowercase", Kind.REJECTED),
        (Step.CREATE, 400, "No command specified", Kind.REJECTED),
        (Step.CREATE, 400, "Minimum memory limit allowed is 6MB", Kind.REJECTED),
        (Step.CREATE, 400, "bind source path does not exist: /x", Kind.REJECTED),
        (Step.CREATE, 500, "json: cannot unmarshal string into Go", Kind.REJECTED),
        (Step.CREATE, 500, "Cannot mkdir: /bin/cat is not a directory", Kind.REJECTED),
        (Step.CREATE, 500, "write /x: no space left on device", Kind.TRANSIENT),
        (Step.START, 400, 'exec: "/nope": stat /nope: no such file or directory', Kind.NOT_FOUND),
        (Step.START, 500, "executable file `x` not found in $PATH", Kind.NOT_FOUND),
        (Step.START, 500, "open executable: Operation not permitted", Kind.NOT_EXECUTABLE),
        (Step.START, 400, "permission denied: unknown", Kind.NOT_EXECUTABLE),
        (Step.START, 500, "unable to find user x: no matching entries", Kind.NOT_EXECUTABLE),
        (Step.START, 500, "failed to initialize logging driver: x", Kind.REJECTED),
        (Step.START, 404, "network x not found", Kind.REJECTED),
        (Step.START, 404, "No such container: x", Kind.GONE),
        (Step.START, 500, "fork: resource temporarily unavailable", Kind.TRANSIENT),
        (Step.OTHER, 404, "No such container: x", Kind.GONE),
        (Step.OTHER, 409, "removal of container x is already in progress", Kind.TRANSIENT),
        (Step.START, 500, "task c66b77: already exists", Kind.HALF_STARTED),
        (Step.START, 409, "id already in use", Kind.HALF_STARTED),
        (Step.OTHER, 501, "configured logging driver does not support reading", Kind.NO_LOGS),
        (Step.OTHER, 500, "something broke", Kind.TRANSIENT),
        (Step.OTHER, 900, "Cannot connect to Docker Engine", Kind.TRANSIENT),
        (Step.OTHER, 418, "a teapot", Kind.REJECTED),
    ],
)
def test_answers(step: Step, status: int, text: str, expected: Kind) -> None:
    """Status and text together say what an answer means, in dockerd's words and podman's."""
    assert expected is read_answer(step, status, text).kind


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (
            127,
            b"[FATAL tini (2)] exec /x failed: No such file",
            (127, "exec /x failed: No such file"),
        ),
        (
            1,
            b"ERROR (catatonit:2): failed to exec pid1: No such file or directory",
            (127, "failed"),
        ),
        (1, b"ERROR (catatonit:2): failed to exec pid1: Permission denied", (126, "failed")),
        (1, b"error", (1, "")),
        (2, b"[FATAL tini (2)] exec /x failed: No such file", (2, "")),
    ],
)
def test_a_program_that_was_never_executed_has_a_shells_code(
    code: int, said: bytes, expected: tuple[int, str]
) -> None:
    """Each init has codes of its own; ours are 127 for what is not there and 126 for the rest."""
    actual = judged(code, 0, said)

    assert (actual[0], bool(actual[1])) == (expected[0], bool(expected[1]))
    assert judged(code, 1, said) == (code, "")


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (b"[FATAL tini (2)] exec /x failed: No such file\n", "exec /x failed: No such file"),
        (b"ERROR (catatonit:2): failed to exec pid1: nope\n", "failed to exec pid1: nope"),
        (b"mine\n[FATAL tini (2)] exec /x failed: No such file\n", ""),
        (b"", ""),
    ],
)
def test_what_an_init_says(stderr: bytes, expected: str) -> None:
    """Only an init that could not execute anything speaks alone."""
    assert expected == init_failure(stderr)


class Spoke:
    """A run that has ended, with the words of an init that could not execute the program."""

    name, adopted = "sbx-t.m.one", False

    def __init__(self, end: Exit) -> None:
        self._end, self.read = end, 0

    async def wait(self) -> Exit:
        """Return how it ended."""
        return self._end

    async def stop(self, grace: float) -> None:
        """Do nothing: it has ended."""

    async def logs(self, most: int) -> Logs:  # noqa: ARG002 - the port's
        """Return what its init said."""
        self.read += 1
        return Logs(stderr=b"[FATAL tini (2)] exec /x failed: No such file or directory")


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        pytest.param(Exit(code=127), (127, True), id="never-executed"),
        pytest.param(Exit(code=1), (127, True), id="a-shells-code"),
        pytest.param(Exit(code=3), None, id="no-code-of-an-init"),
        pytest.param(Exit(code=127, lost=True), None, id="no-verdict"),
        pytest.param(Exit(code=126, not_started=True), None, id="known-already"),
    ],
)
async def test_an_end_is_judged_by_what_the_init_said(
    end: Exit, expected: tuple[int, bool] | None
) -> None:
    """The logs are read only where an init may have spoken; every other end stays as it is."""
    run = Spoke(end)

    actual = await judged_end(end, run)

    assert run.read == (expected is not None)
    assert (actual.code, actual.not_started) == (expected or (end.code, end.not_started))


def test_a_container_is_hardened() -> None:
    """Nothing is left to the engine's defaults that the specification promises."""
    body = json.loads(json.dumps(create_body(SPEC, Traits(runtime="crun", log_driver="local"))))
    host = body["HostConfig"]

    assert body["NetworkDisabled"] is True
    assert body["WorkingDir"] == "/work"
    assert host == {
        "NetworkMode": "none",
        "IpcMode": "private",
        "Init": True,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": 256,
        "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 1024}],
        "Mounts": [{"Type": "bind", "Source": "/base/one/1", "Target": "/work"}],
        "Runtime": "crun",
        "LogConfig": {
            "Type": "local",
            "Config": {"max-size": "10485760", "max-file": "1", "compress": "false"},
        },
    }


def test_wishes_reach_the_engine() -> None:
    """Limits, user, network, devices and mounts of a spec are in the request."""
    spec = msgspec.structs.replace(
        SPEC,
        memory=2**26,
        cpus=1.5,
        user="65534",
        network="lab",
        read_only=True,
        devices=("/dev/fuse",),
        mounts=(Mount(source="/data/a", target="/a"),),
    )
    body = json.loads(json.dumps(create_body(spec, Traits(deny_list=True))))
    host = body["HostConfig"]

    assert "NetworkDisabled" not in body
    assert (body["User"], host["NetworkMode"]) == ("65534", "lab")
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (2**26, 2**26, 1_500_000_000)
    assert "mode=1777" in host["Tmpfs"]["/tmp"]
    assert host["Devices"][0]["PathOnHost"] == "/dev/fuse"
    assert host["Mounts"][1]["ReadOnly"] is True
    assert "unshare" in host["SecurityOpt"][1]


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=20),
    st.integers(1, 7),
    st.integers(1, 40),
)
def test_frames_are_split_wherever_the_stream_is_cut(
    pieces: list[tuple[int, bytes]], step: int, most: int
) -> None:
    """The outputs' ends come out whole, however the engine's stream is cut into pieces."""
    stream = b"".join(struct.pack(">BxxxL", n, len(data)) + data for n, data in pieces)
    outputs = [b"".join(data for n, data in pieces if n == wanted) for wanted in (1, 2)]

    frames = Frames(most)
    for begin in range(0, len(stream), step):
        frames.feed(stream[begin : begin + step])
    logs = frames.logs

    assert [out[-most:] for out in outputs] == [logs.stdout, logs.stderr]
    assert [len(out) for out in outputs] == [logs.stdout_size, logs.stderr_size]


def inspected(code: int, *, oom: bool = False, started: str = "", finished: str = "") -> Inspected:
    """Return an ended container as inspect tells it."""
    state = State(
        status="exited",
        exit_code=code,
        o_o_m_killed=oom,
        started_at=started or "2026-01-01T00:00:10.5Z",
        finished_at=finished or "2026-01-01T00:00:20Z",
    )
    return Inspected(id="x", state=state, config=Config())


BETWEEN = seconds("2026-01-01T00:00:15Z")


@pytest.mark.parametrize(
    ("found", "seen", "expected"),
    [
        pytest.param(inspected(137), {"signalled": True}, (False, True), id="killed-by-somebody"),
        pytest.param(inspected(143), {"unseen": True}, (False, True), id="stopped-unseen"),
        pytest.param(inspected(1), {"signalled": True}, (False, True), id="failed-as-it-was-told"),
        pytest.param(inspected(0), {"signalled": True}, (False, False), id="finished-all-the-same"),
        pytest.param(inspected(137), {}, (False, False), id="killed-itself"),
        pytest.param(inspected(1), {"unseen": True}, (False, False), id="failed-unseen"),
        pytest.param(inspected(137, oom=True), {"unseen": True}, (True, False), id="memory"),
        pytest.param(inspected(0, oom=True), {}, (True, False), id="childs-memory"),
        pytest.param(inspected(255), {"boot": BETWEEN}, (False, True), id="the-host-went-down"),
    ],
)
def test_ends(found: Inspected, seen: dict[str, float], expected: tuple[bool, bool]) -> None:
    """A signal that somebody else sent, and a host that went down, are no verdict."""
    end = exit_of(
        found,
        signalled=bool(seen.get("signalled")),
        unseen=bool(seen.get("unseen")),
        boot=seen.get("boot", 0.0),
    )

    assert expected == (end.out_of_memory, end.lost)


def test_times_never_run_backwards() -> None:
    """The engine's two clocks differ by milliseconds; an end is never before its start."""
    late = "2026-01-01T00:00:30.123456789Z"
    end = exit_of(inspected(0, started=late))

    assert end.finished == end.started == seconds(late)


@pytest.mark.parametrize("text", ["", "0001-01-01T00:00:00Z", "no time"])
def test_never_is_no_time(text: str) -> None:
    """What never happened has the time 0."""
    assert seconds(text) == 0.0


def test_inspect_is_read() -> None:
    """What we need of inspect is found in it."""
    raw = {
        "Id": "abc",
        "Created": "2026-01-01T00:00:00Z",
        "State": {"Status": "created", "OOMKilled": True, "ExitCode": 3, "Error": "e"},
        "Config": {"Labels": {"a": "b"}},
        "Mounts": [{"Source": "/w", "Destination": "/work", "Mode": ""}],
    }
    found = read_inspected(json.dumps(raw))

    assert (found.id, found.work, found.labels) == ("abc", "/w", {"a": "b"})
    assert (found.state.o_o_m_killed, found.waits_for_start, found.ended) == (True, True, False)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc",
        "/etc/ssl",
        "/usr/bin",
        "/proc",
        "/sys",
        "/dev",
        "/var",
        "/run",
        "/var/run",
        "/bin",
    ],
)
def test_system_directories_are_never_roots(path: str) -> None:
    """Neither the system's directories, nor what is in them, nor what holds them."""
    with pytest.raises(NotPermitted):
        check_root(path)


def test_memory_scratch_may_be_mounted() -> None:
    """The one place below /dev that programs share on purpose."""
    assert check_root("/dev/shm") == "/dev/shm"


def test_guarded_places_are_out_of_reach(tmp_path: Path) -> None:
    """The engine's socket can be mounted neither itself, nor by its directory, nor by a link."""
    socket = tmp_path / "engine" / "docker.sock"
    socket.parent.mkdir()
    socket.touch()
    (tmp_path / "link").symlink_to(socket.parent)

    for path in (tmp_path, socket.parent, tmp_path / "link"):
        with pytest.raises(NotPermitted):
            check_root(str(path), [str(socket)])


def test_links_may_not_leave_their_root(tmp_path: Path) -> None:
    """A mount's real path decides, through any chain of links."""
    root, secret = tmp_path / "root", tmp_path / "secret"
    for folder in (root / "inside", secret):
        folder.mkdir(parents=True)
    (root / "first").symlink_to("second")
    (root / "second").symlink_to(secret)
    (root / "fine").symlink_to("inside")

    fine = Mount(source=f"{root}/fine", target="/a", root=str(root))
    assert real_mounts([fine])[0].source == str(root / "inside")
    with pytest.raises(NotPermitted, match="leaves the root"):
        real_mounts([Mount(source=f"{root}/first", target="/a", root=str(root))])


@pytest.mark.parametrize(
    ("command", "program", "entrypoint", "cmd"),
    [
        ((), Program(), ["sh", "gate"], []),
        (("a",), Program(cmd=["c"]), ["sh", "gate"], ["a"]),
        ((), Program(entrypoint=["e", "f"], cmd=["c"]), ["sh", "gate", "e", "f"], ["c"]),
        (("a",), Program(entrypoint=["e"], cmd=["c"]), ["sh", "gate", "e"], ["a"]),
    ],
)
def test_a_wrapper_is_given_what_would_be_executed(
    command: tuple[str, ...], program: Program, entrypoint: list[str], cmd: list[str]
) -> None:
    """Entry point and command, as the engine would have put them together, are its arguments."""
    spec = msgspec.structs.replace(SPEC, wrapper=("sh", "gate"), command=command)
    body = create_body(spec, Traits(), program)

    assert (body["Entrypoint"], body["Cmd"]) == (entrypoint, cmd)
    assert "Entrypoint" not in create_body(SPEC, Traits(), program)


def test_a_folder_of_the_nodes_own_may_lie_anywhere() -> None:
    """Work directories may be kept below /run, where a topology may mount nothing."""
    door = Mount(source="/run/sbx/door", target="/sbx", ours=True)

    assert real_mounts([door]) == (door,)


async def test_an_unknown_runtime_is_named() -> None:
    """A misspelt `--runtime` is answered with those that there are."""
    with pytest.raises(BadInput, match="docker, oci, process"):
        await open_runtime("dokcer")


def test_a_container_gets_its_group() -> None:
    """A parent control group is in the request if there is one, and nothing if not."""
    bodies = [create_body(SPEC, Traits(), parent=parent) for parent in ("/sbx/n/one~1", "")]
    hosts = [json.loads(json.dumps(body))["HostConfig"] for body in bodies]

    assert hosts[0].pop("CgroupParent") == "/sbx/n/one~1"
    assert hosts[0] == hosts[1]


@pytest.mark.parametrize(
    ("traits", "host", "version", "expected"),
    [
        pytest.param(Traits(cgroup_driver="cgroupfs", cgroup_version="1"), "unix:///s", 1, ""),
        pytest.param(Traits(cgroup_driver="cgroupfs", cgroup_version="2"), "unix:///s", 2, ""),
        pytest.param(Traits(cgroup_driver="cgroupfs"), "unix:///s", 1, "", id="an-old-engine"),
        pytest.param(Traits(cgroup_driver="cgroupfs"), "tcp://h:1", 1, "not on this host"),
        pytest.param(
            Traits(cgroup_driver="systemd", cgroup_version="2"), "unix:///s", 2, "systemd"
        ),
        pytest.param(Traits(), "unix:///s", 2, "unknown"),
        pytest.param(Traits(cgroup_driver="cgroupfs", cgroup_version="2"), "unix:///s", 0, "no co"),
        pytest.param(Traits(cgroup_driver="cgroupfs", cgroup_version="2"), "unix:///s", 1, "v2"),
    ],
)
def test_where_usage_can_be_measured(
    traits: Traits, host: str, version: int, expected: str
) -> None:
    """On this host, with plain control groups of the same version; else a reason is given."""
    fault = fault_of(traits, host, version)

    assert expected in fault
    assert bool(expected) == bool(fault)


def meter_in(place: Path) -> Meter:
    """Return a meter on plain folders in the place of control groups."""
    for name in ("cpuacct", "memory"):
        (place / name).mkdir()
    layout = Layout(version=1, roots={n: str(place / n) for n in ("cpuacct", "memory")})
    return Meter(Cgroups(layout))


def test_a_group_lives_as_long_as_its_container(tmp_path: Path) -> None:
    """It is made before the container, read at its end, and removed with it."""
    meter, labels = meter_in(tmp_path), {"sbx.node": "n1"}
    parent = meter.begin("sbx-t.m.one", labels)
    meter.note("c1", parent)
    (tmp_path / f"cpuacct{parent}/cpuacct.usage").write_text("2000000000")
    end = meter.measured(Exit(code=0), parent)
    (tmp_path / f"cpuacct{parent}/cpuacct.usage").unlink()
    meter.end("c1")

    assert parent.startswith("/sbx/n1/sbx-t.m.one~")
    assert (end.cpu_seconds, end.memory_peak) == (2.0, None)
    assert list(tmp_path.glob("*/sbx/n1/*")) == []


@pytest.mark.parametrize(("version", "expected"), [(1, (None, None)), (2, (4096, 512))])
def test_what_version_1_forgets_is_not_told(
    tmp_path: Path, version: int, expected: tuple[int | None, int | None]
) -> None:
    """Bytes of a container that has ended are known to its parent group in version 2 only."""
    roots = {"": str(tmp_path)} if version == 2 else {"cpuacct": str(tmp_path)}
    groups = Cgroups(Layout(version=version, roots=roots | {"blkio": str(tmp_path)}))
    folder = tmp_path / "sbx/n/one"
    folder.mkdir(parents=True)
    (folder / "cpuacct.usage").write_text("1")
    (folder / "cpu.stat").write_text("usage_usec 1")
    (folder / "io.stat").write_text("8:0 rbytes=4096 wbytes=512")
    (folder / "blkio.throttle.io_service_bytes").write_text("8:0 Read 0\n8:0 Write 0\n")
    end = Meter(groups).measured(Exit(code=0), "/sbx/n/one")

    assert expected == (end.io_read_bytes, end.io_write_bytes)


def test_a_group_that_stayed_empty_tells_nothing(tmp_path: Path) -> None:
    """An engine in a namespace of its own puts containers elsewhere: not known is not 0."""
    meter = meter_in(tmp_path)
    parent = meter.begin("sbx-t.m.one", {})
    (tmp_path / f"cpuacct{parent}/cpuacct.usage").write_text("0")
    (tmp_path / f"memory{parent}/memory.max_usage_in_bytes").write_text("0")

    assert meter.measured(Exit(code=0), parent) == Exit(code=0)
    assert meter.measured(Exit(code=0), "/docker") == Exit(code=0)


def test_groups_that_were_left_are_swept(tmp_path: Path) -> None:
    """Those of the node's own topology that neither a container nor somebody at work has."""
    old, labels = meter_in(tmp_path), {"sbx.node": "n1"}
    left, held, other = (old.begin(n, labels) for n in ("sbx-t.m.a", "sbx-t.m.b", "sbx-u.m.c"))
    meter = Meter(old._groups)
    begun = meter.begin("sbx-t.m.d", labels)
    meter.sweep("n1", "t", {held})

    present = {f"/sbx/n1/{path.name}" for path in tmp_path.glob("memory/sbx/n1/*")}
    assert present == {held, other, begun}
    assert left not in present


def test_without_the_right_nothing_is_made(tmp_path: Path) -> None:
    """A container of a node that is not root has no group, and its end is as it was."""
    meter = Meter(meter_in(tmp_path)._groups, fault="no right")
    parent = meter.begin("sbx-t.m.one", {})
    meter.sweep("n1", "t", ())

    assert parent == ""
    assert meter.measured(Exit(code=0), "/sbx/n1/one") == Exit(code=0)
    assert not (tmp_path / "memory/sbx").exists()
