"""The environment variables of a run, as Scalebox's programs know them. Pure."""

from collections.abc import Mapping

import msgspec

from scalebox_actors.names import digest
from scalebox_actors.ports import Task
from scalebox_actors.topology.model import Module

DATA_ROOT = "CLUSTER_DATA_ROOT"
_CONTROLLED = frozenset({"PGHOST", "AUTH_TOKEN"})


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a node tells every program about where it runs."""

    topology: str
    site: str = "local"
    node: str
    ip: str = ""
    log_level: str = "info"
    cluster_data_root: str = ""


def run_id(task: Task) -> str:
    """Return `SBX_RUN_ID`: the same for every repetition of an attempt, different for each task."""
    return f"{digest(*task.key)[:16]}-{task.attempt}"


def data_root(module: Module, surroundings: Surroundings) -> str:
    """Return what a module's programs are told of the data root; empty if they are told none."""
    return module.env.get(DATA_ROOT, surroundings.cluster_data_root)


class Variables:
    """The variables of a module's runs, of which most are the same for every task."""

    def __init__(self, module: Module, surroundings: Surroundings) -> None:
        self._lasting = lasting_environment(module, 0, surroundings, "/")
        self._seat = seat_variables(module, surroundings)

    def of(self, task: Task, work: str) -> dict[str, str]:
        """Return the variables of a run: the module's own first, ours over them.

        A module's `env` may not override identity, directories or control; variables of ours that
        have no value are left out, so that a program can test for them.
        """
        message = task.message
        of_the_task = {
            "TASK_ID": message.id,
            "SBX_RUN_ID": run_id(task),
            "SBX_ATTEMPT": str(task.attempt),
            "FROM_MODULE": message.from_module,
            "FROM_IP": message.from_ip,
            "WORK_DIR": work,
        }
        given = {name: value for name, value in of_the_task.items() if value}
        given.update((name, f"{text}{task.slot}") for name, text in self._seat.items())
        return self._lasting | given


def environment(
    module: Module, task: Task, surroundings: Surroundings, work: str
) -> dict[str, str]:
    """Return the variables of a single run; see `Variables`."""
    return Variables(module, surroundings).of(task, work)


def lasting_environment(
    module: Module, slot: int, surroundings: Surroundings, work: str
) -> dict[str, str]:
    """Return the variables that are the same for every message of a container that stays."""
    seat = {name: f"{text}{slot}" for name, text in seat_variables(module, surroundings).items()}
    ours = seat | {
        "APP_ID": surroundings.topology,
        "MODULE_ID": module.name,
        "MODULE_NAME": module.name,
        "PLAT_MODULE_NAME": module.name,
        "CLUSTER": surroundings.site,
        "HOST_NAME": surroundings.node,
        "LOCAL_IP": surroundings.ip,
        "SINK_MODULE": module.sinks[0] if len(module.sinks) == 1 else "",
        "WORK_DIR": work,
        "LOG_LEVEL": surroundings.log_level,
        "TASK_MAX_SECONDS": f"{module.timeout:g}",
        "PLAT_TASK_MAX_SECONDS": f"{module.timeout:g}",
        "TASK_TIMEOUT_SECONDS": f"{module.timeout:g}",
        "PLAT_OUTPUT_TEXT_SIZE": str(module.output_text_size),
        "PLAT_TEXT_TRUNC_MODE": module.text_trunc_mode.value,
    }
    given = {name: value for name, value in ours.items() if value}
    defaults = {
        DATA_ROOT: surroundings.cluster_data_root,
        "LOCAL_TMPDIR": "/tmp",  # noqa: S108 - a name for the program, not a place we write to
        "LOCAL_SHMDIR": "/dev/shm",  # noqa: S108
    }
    soft = {name: value for name, value in defaults.items() if value}
    return soft | _allowed(module.env) | given


def seat_variables(module: Module, surroundings: Surroundings) -> dict[str, str]:
    """Return the variables that tell a run its slot: each text is followed by the number."""
    return {"SLOT_ID": f"{surroundings.node}.{module.name}.", "SLOT_SEQ": ""}


def _allowed(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in _CONTROLLED}
