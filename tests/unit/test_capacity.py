"""What a node may use of its host: what is said, what is found, and what cannot be meant."""

from pathlib import Path

import pytest

from scalebox_actors import capacity
from scalebox_actors.capacity import (
    free_for_runs,
    gpu_devices,
    host_gpus,
    host_memory,
    read_gpus,
    room_of,
)
from scalebox_actors.cli.check import check
from scalebox_actors.cli.room import Sizes, never_fit, use_text
from scalebox_actors.errors import BadInput
from scalebox_actors.limits import MIB
from scalebox_actors.pool import InUse, Room, Share
from scalebox_actors.topology.model import Limits, Module, Topology


@pytest.mark.parametrize(
    ("total", "expected"),
    [(None, None), (64 * 1024 * MIB, 63 * 1024 * MIB), (4096 * MIB, 3584 * MIB), (0, 0)],
)
def test_a_host_keeps_something_for_itself(total: int | None, expected: int | None) -> None:
    """A gibibyte, or an eighth of a small one; a host that tells nothing is not limited."""
    assert expected == free_for_runs(total)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("none", ()), ("0", (0,)), ("3,0", (0, 3)), ("0-3", (0, 1, 2, 3)), ("0,2-3,2", (0, 2, 3))],
)
def test_lists_of_gpus(text: str, expected: tuple[int, ...]) -> None:
    """Indexes and ranges, each counted once."""
    assert expected == read_gpus(text)


@pytest.mark.parametrize("text", ["", "a", "0,", "-1", "3-1", "1024", "0;1", "0 1", "9" * 90])
def test_what_is_no_list_of_gpus(text: str) -> None:
    """A slip of the hand is told, and never taken for no GPU at all."""
    with pytest.raises(BadInput, match="--gpus"):
        read_gpus(text)


def test_gpus_are_found_by_their_files(tmp_path: Path) -> None:
    """Only files with a number are GPUs."""
    for name in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "nvidia0x"):
        (tmp_path / name).touch()

    assert host_gpus(str(tmp_path)) == (0, 11)


def test_what_is_said_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's word comes before what the host has; without it the host is asked."""
    monkeypatch.setattr(capacity, "host_gpus", lambda: (0, 1))
    said = room_of(1.5, 7, "none")
    found = room_of(None, None, None)

    assert said == Room(millicpus=1500, memory=7, gpus=())
    assert (found.millicpus or 0) >= 1000
    assert 0 < (found.memory or 0) < (host_memory() or 0)
    assert found.gpus == (0, 1)


@pytest.mark.parametrize("path", ["/etc/passwd", "nvidia{}", "/dev/../etc", "/dev/a b"])
def test_device_files_are_below_dev(path: str) -> None:
    """An operator's slip does not hand out something else."""
    with pytest.raises(BadInput, match="--gpu-devices"):
        gpu_devices((path,))


def test_device_files_are_the_operators() -> None:
    """Named ones replace NVIDIA's."""
    assert gpu_devices(("/dev/dri/renderD{}", "/dev/kfd")) == ("/dev/dri/renderD{}", "/dev/kfd")
    assert gpu_devices(())[0] == "/dev/nvidia{}"


def test_a_size_that_is_none_is_told() -> None:
    """`--memory` takes sizes as topologies do."""
    with pytest.raises(BadInput, match="--memory"):
        _ = Sizes(memory="much").room


def test_what_never_fits_is_named() -> None:
    """`plan` and `check` warn of modules that a node of a size can never run, and only of these."""
    fits = Module(name="a", image="i", limits=Limits(cpus=1))
    large = Module(name="b", image="i", limits=Limits(gpus=2))
    topology = Topology(name="t", modules={"a": fits, "b": large})

    assert never_fit(topology, Room(millicpus=1000, gpus=(0,))) == {
        "b": "needs 2, but a node may use 1 GPUs here (--gpus)"
    }


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (InUse(), ""),
        (
            InUse(
                room=Room(millicpus=4000, memory=MIB, gpus=(0, 1)),
                taken=Share(millicpus=1500, gpus=(1,)),
                waiting=2,
            ),
            "cpus 1.5/4, memory 0B/1MiB, gpus 1/2, 2 waiting for room",
        ),
    ],
)
def test_how_full_a_node_is(use: InUse, expected: str) -> None:
    """`status` says what is taken of what, and nothing of what is not limited."""
    assert expected == use_text(use)


def test_check_takes_the_size_of_a_node() -> None:
    """The options are there; what they do is shown by the command's own tests."""
    assert {"cpus", "memory", "gpus"} <= {option.name for option in check.params}
