"""The environment of a run: what the contract names, and nothing that a module may fake."""

from scalebox_actors.launch.environment import Surroundings, environment, run_id
from scalebox_actors.message import Message
from scalebox_actors.ports import Task
from scalebox_actors.topology.model import Duration, Module

MODULE = Module(
    name="m",
    sinks=("next",),
    timeout=Duration(90),
    env={"MINE": "1", "TASK_ID": "forged", "PGHOST": "db", "CLUSTER_DATA_ROOT": "/mine"},
)
MESSAGE = Message(module="m", id="7", body=b"x", from_module="a", from_ip="10.0.0.9")
TASK = Task(message=MESSAGE, attempt=2, slot=3)
HERE = Surroundings(topology="t", node="n1", ip="10.0.0.1", cluster_data_root="/data")


def test_the_contracts_names_are_there() -> None:
    """Identity, routing, directories and limits as SCALEBOX section 3.2 lists them."""
    given = environment(MODULE, TASK, HERE, "/work")

    assert {
        "APP_ID": "t",
        "MODULE_NAME": "m",
        "PLAT_MODULE_NAME": "m",
        "SLOT_SEQ": "3",
        "SLOT_ID": "n1.m.3",
        "TASK_ID": "7",
        "SBX_ATTEMPT": "2",
        "SBX_RUN_ID": run_id(TASK),
        "CLUSTER": "local",
        "HOST_NAME": "n1",
        "LOCAL_IP": "10.0.0.1",
        "SINK_MODULE": "next",
        "FROM_MODULE": "a",
        "FROM_IP": "10.0.0.9",
        "WORK_DIR": "/work",
        "TASK_MAX_SECONDS": "90",
    }.items() <= given.items()


def test_a_module_adds_and_does_not_override() -> None:
    """Its own variables are added; identity cannot be forged, control is never set."""
    given = environment(MODULE, TASK, HERE, "/work")

    assert given["MINE"] == "1"
    assert given["TASK_ID"] == "7"
    assert given["CLUSTER_DATA_ROOT"] == "/mine"
    assert "PGHOST" not in given


def test_what_has_no_value_is_left_out() -> None:
    """A program can test for a variable: an empty one is not there."""
    bare = Task(message=Message(module="m", id="7", body=b""))

    given = environment(Module(name="m"), bare, Surroundings(topology="t", node="n"), "/w")

    assert not {"FROM_MODULE", "SINK_MODULE", "LOCAL_IP"} & set(given)


def test_run_ids_tell_attempts_apart() -> None:
    """The same attempt of a task has one id wherever it runs, another attempt has another."""
    again = Task(message=MESSAGE, attempt=3)

    assert run_id(TASK) == run_id(Task(message=MESSAGE, attempt=2))
    assert run_id(TASK) != run_id(again)
