"""A container never gets more than the operator's ceiling allows."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.errors import NotPermitted
from scalebox_actors.spec import (
    DOOR,
    Ceiling,
    ContainerSpec,
    Frame,
    Home,
    Mount,
    Root,
    check_ceiling,
    container_spec,
    parse_mount,
    resolve_mount,
)
from scalebox_actors.topology.model import Launch, Limits, Module, Size, Topology

ROOTS = {"data": Root(path="/data", writable=False), "out": Root(path="/out/", writable=True)}

texts = st.text(max_size=30)
sizes = st.none() | st.integers(1, 2**40).map(Size)
cpu_counts = st.none() | st.floats(0.01, 256)
networks = st.sampled_from(["", "host", "bridge", "lab"])
devices = st.lists(st.sampled_from(["/dev/fuse", "/dev/kfd", "/dev/sda"]), max_size=3).map(tuple)
mounts = st.lists(
    st.sampled_from(["data:a:/a", "data:a:/a:rw", "out:b/c:/b:rw", "out::/o", "out:x:/x:ro"]),
    max_size=3,
).map(tuple)

modules = st.builds(
    Module,
    name=st.just("m"),
    image=st.sampled_from(["sbx/a", "sbx/b:1", "other/c"]),
    limits=st.builds(Limits, memory=sizes, cpus=cpu_counts, pids=st.integers(1, 2**22)),
    slots=st.integers(1, 512),
    mounts=mounts,
    network=networks,
    user=st.sampled_from(["", "0", "65534", "root"]),
    read_only=st.booleans(),
    devices=devices,
)
ceilings = st.builds(
    Ceiling,
    images=st.sampled_from([(), ("sbx/",), ("sbx/a", "other/")]),
    roots=st.just(ROOTS),
    networks=st.lists(networks.filter(bool), max_size=2).map(tuple),
    devices=devices,
    memory=st.none() | st.integers(1, 2**40),
    cpus=cpu_counts,
    pids=st.integers(1, 8192),
    slots=st.integers(1, 256),
    read_only=st.booleans(),
    user=st.sampled_from(["", "1000"]),
    require_memory=st.booleans(),
)


def frame(*command: str) -> Frame:
    """Return a run of a task with such a command."""
    return Frame(
        name="sbx-t.m.id",
        home=Home(topology="t", site="local", node="n1"),
        task_id="id",
        attempt=2,
        command=command,
        env={"A": "b"},
        work="/work/base/run/2",
    )


def within(spec: ContainerSpec, ceiling: Ceiling) -> list[bool]:
    """Return, wish by wish, whether a container stays below its ceiling."""
    return [
        ceiling.memory is None or (spec.memory is not None and spec.memory <= ceiling.memory),
        ceiling.cpus is None or (spec.cpus is not None and spec.cpus <= ceiling.cpus),
        spec.pids <= ceiling.pids,
        not spec.network or spec.network in ceiling.networks,
        set(spec.devices) <= set(ceiling.devices),
        not ceiling.read_only or spec.read_only,
        not ceiling.user or spec.user == ceiling.user,
        all(
            any(
                (mount.source + "/").startswith(root.path.rstrip("/") + "/")
                and (root.writable or not mount.writable)
                for root in ceiling.roots.values()
            )
            for mount in spec.mounts
        ),
    ]


def test_an_operator_can_do_without_limits() -> None:
    """On a host that keeps none a module runs all the same, if he says so."""
    module = Module(name="m", image="i", limits=Limits(memory=Size(2**26), cpus=0.5))
    kept = container_spec(module, frame("a"), Ceiling())
    free = container_spec(module, frame("a"), Ceiling(unlimited=True))

    assert (kept.memory, kept.cpus) == (2**26, 0.5)
    assert (free.memory, free.cpus) == (None, None)


@given(modules, ceilings, texts, texts)
def test_no_container_exceeds_the_ceiling(
    module: Module, ceiling: Ceiling, body: str, headers: str
) -> None:
    """For any module, message and ceiling: also where the check at loading was forgotten."""
    spec = container_spec(module, frame(body, headers), ceiling)

    assert all(within(spec, ceiling))


@given(modules, ceilings, texts)
def test_a_message_changes_nothing_but_arguments(
    module: Module, ceiling: Ceiling, body: str
) -> None:
    """What a message says arrives as a whole argument and touches nothing else."""
    spec = container_spec(module, frame(body, "{}"), ceiling)
    plain = container_spec(module, frame("", "{}"), ceiling)

    assert (body, "{}") == spec.command
    assert all(
        getattr(spec, name) == getattr(plain, name)
        for name in spec.__struct_fields__
        if name != "command"
    )


@given(modules, ceilings)
def test_what_passes_the_check_gets_its_wishes(module: Module, ceiling: Ceiling) -> None:
    """A topology that is let through is not cut down in silence."""
    try:
        check_ceiling(Topology(name="t", modules={"m": module}), ceiling)
    except NotPermitted:
        return
    spec = container_spec(module, frame(), ceiling)

    assert module.network == spec.network
    assert tuple(dict.fromkeys(module.devices)) == spec.devices  # named twice is there once
    assert module.limits.pids == spec.pids
    assert module.limits.memory in (None, spec.memory)
    assert module.limits.cpus in (None, spec.cpus)


def test_labels_tell_everything_about_a_run() -> None:
    """A node and its reaper know their containers by labels."""
    actual = container_spec(Module(name="m", image="i"), frame(), Ceiling()).labels

    assert actual == {
        "sbx.topology": "t",
        "sbx.site": "local",
        "sbx.module": "m",
        "sbx.id": "id",
        "sbx.node": "n1",
        "sbx.attempt": "2",
    }


def test_a_base_is_a_label_if_there_is_one() -> None:
    """By it a node tells its containers from those of a namesake on the same engine."""
    plain = frame()
    based = msgspec.structs.replace(
        plain, home=msgspec.structs.replace(plain.home, base="/srv/work")
    )

    assert based.labels == plain.labels | {"sbx.base": "/srv/work"}


@pytest.mark.parametrize(
    ("module", "ceiling", "word"),
    [
        (Module(name="m", image="x/y"), Ceiling(images=("sbx/",)), "image"),
        (Module(name="m", slots=300), Ceiling(), "slots"),
        (Module(name="m", limits=Limits(pids=5000)), Ceiling(), "pids"),
        (Module(name="m", network="host"), Ceiling(), "network"),
        (Module(name="m"), Ceiling(require_memory=True), "memory"),
        (Module(name="m", limits=Limits(memory=Size(9))), Ceiling(memory=8), "memory"),
        (Module(name="m", limits=Limits(cpus=2.0)), Ceiling(cpus=1.0), "cpus"),
        (Module(name="m", devices=("/dev/sda",)), Ceiling(), "device"),
        (Module(name="m", mounts=("data:a:/a",)), Ceiling(), "mount root"),
        (Module(name="m", mounts=("data:a:/a:rw",)), Ceiling(roots=ROOTS), "writable"),
    ],
)
def test_a_greedy_module_is_refused_by_name(module: Module, ceiling: Ceiling, word: str) -> None:
    """Every wish above the ceiling is refused with the module and the wish."""
    with pytest.raises(NotPermitted, match=f"module 'm': .*{word}"):
        check_ceiling(Topology(name="t", modules={"m": module}), ceiling)


def test_a_function_needs_no_image() -> None:
    """What runs in the node is not held to the containers' rules."""
    module = Module(name="m", function="a:b", launch=Launch.FUNCTION)
    ceiling = Ceiling(images=("sbx/",), require_memory=True)

    check_ceiling(Topology(name="t", modules={"m": module}), ceiling)


@pytest.mark.parametrize(
    "text",
    [
        "", "data", "data:a", "data:a:b", "data:a:/", "data:a://", "data:a:/b:x", "data:a:/b:rw:z",
        "data:/etc:/b", "data:..:/b", "data:a/../../etc:/b", "data:a/..:/b", "data:../a:/b",
        "data:a:/b/../../etc", "data:a:b/c", "data:a\0:/b", "data:a:/b\0", "data://etc:/b",
    ],
)  # fmt: skip
def test_mounts_that_leave_their_root_are_refused(text: str) -> None:
    """Traversal in any spelling that a path can have is no mount."""
    with pytest.raises(NotPermitted):
        parse_mount(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data:a/b:/x", Mount(source="/data/a/b", target="/x", root="/data")),
        ("data::/x:ro", Mount(source="/data", target="/x", root="/data")),
        ("data:a:/x:rw", Mount(source="/data/a", target="/x", root="/data")),
        ("out:./a//b:/x:rw", Mount(source="/out/a/b", target="/x", writable=True, root="/out/")),
        ("data:%2e%2e/a:/x", Mount(source="/data/%2e%2e/a", target="/x", root="/data")),
    ],
)
def test_mounts_are_found_below_their_root(text: str, expected: Mount) -> None:
    """A mount is a directory below a named root, writable only where both say so."""
    assert expected == resolve_mount(text, Ceiling(roots=ROOTS))


def test_an_unnamed_root_is_refused() -> None:
    """A topology cannot mount what the operator has not named."""
    with pytest.raises(NotPermitted, match="--mount-root"):
        resolve_mount("etc:passwd:/x", Ceiling(roots=ROOTS))


def test_a_container_that_stays_has_a_role_and_a_door() -> None:
    """A folder of the node's own comes after the module's mounts, and a label says why."""
    door = Mount(source="/base/door", target=DOOR, ours=True)
    stays = msgspec.structs.replace(frame("sh"), role="warm", doors=(door,))
    spec = container_spec(Module(name="m", mounts=("data:a:/a",)), stays, Ceiling(roots=ROOTS))

    assert [mount.target for mount in spec.mounts] == ["/a", DOOR]
    assert not any(mount.writable for mount in spec.mounts)
    assert spec.labels["sbx.role"] == "warm"
    assert "sbx.role" not in frame("sh").labels
