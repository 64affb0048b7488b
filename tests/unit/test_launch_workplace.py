"""What the launchers of a node share: whose a run is, and what it has of the node."""

from pathlib import Path

from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.gpus import Gpus
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.pool import Share, read_share
from scalebox_actors.spec import Ceiling, Frame, Home, container_spec
from scalebox_actors.testing.scripted import Host, ScriptedRuntime
from scalebox_actors.topology.model import Module

PLACE = Workplace(
    runtime=ScriptedRuntime(Host(program=lambda *_: 0)),
    base=Path("/base"),
    surroundings=Surroundings(topology="t", site="s", node="n1"),
    gpus=Gpus(indexes=(0, 1), devices=("/dev/nvidia{}", "/dev/nvidiactl")),
)


def test_a_run_is_told_by_its_home() -> None:
    """Node, site and topology; and without a share of the node neither devices nor a label."""
    assert PLACE.home(Share()) == Home(topology="t", site="s", node="n1", base="/base")


def test_a_share_comes_with_its_devices_and_a_label_for_the_next_life() -> None:
    """The container has the device files, and who lists containers reads the share off it."""
    share = Share(memory=64, millicpus=500, gpus=(1,))
    frame = Frame(
        name="r", home=PLACE.home(share), task_id="1", attempt=1, command=(), env={}, work="/w"
    )

    spec = container_spec(Module(name="m", devices=("/dev/fuse",)), frame, Ceiling())

    assert spec.devices == ("/dev/nvidia1", "/dev/nvidiactl")
    assert read_share(spec.labels["sbx.share"]) == share
