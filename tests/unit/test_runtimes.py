"""The pure parts of the docker runtime: tables, request bodies, frames, times."""

import json
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.errors import BadInput
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
