"""What becomes an outcome: a container's end, what it printed, and what its program wrote down."""

import time
from datetime import datetime

import msgspec

from scalebox_actors import contract
from scalebox_actors.contract import Cut, Outputs, truncate
from scalebox_actors.errors import BadOutput
from scalebox_actors.launch.accounting import account
from scalebox_actors.launch.environment import data_root
from scalebox_actors.launch.paths import Paths
from scalebox_actors.launch.workdir import WorkDir
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.ports import Exit, Logs
from scalebox_actors.records import ORPHAN, TIMED_OUT, UNUSABLE, Cause, Outcome, Usage
from scalebox_actors.topology.model import Module

KILLED = 137
WARNINGS_KEPT = 50


def judge_exit(module: Module, exit_: Exit, *, timed_out: bool) -> tuple[Cause, int, str]:
    """Return why a run ended as it did, the exit code that counts, and a sentence for people."""
    if exit_.not_started:
        return Cause.NOT_STARTED, exit_.code or 127, exit_.detail
    if timed_out:
        detail = f"ended at its timeout of {module.timeout:g} s"
        return Cause.TIMEOUT, TIMED_OUT, detail
    if exit_.lost:
        return Cause.LOST, ORPHAN, exit_.detail or "the container was ended from outside"
    if exit_.out_of_memory:
        # A killed child can leave its shell alive: then the exit code is 0 all the same.
        detail = f"out of memory (limit {module.limits.memory or 'of the host'} bytes)"
        return Cause.MEMORY, exit_.code or KILLED, detail
    return Cause.EXIT, exit_.code, exit_.detail


def outcome_of(module: Module, exit_: Exit, logs: Logs, *, timed_out: bool) -> Outcome:
    """Return the outcome of a run that has ended, before its outputs are read."""
    cause, code, detail = judge_exit(module, exit_, timed_out=timed_out)
    return Outcome(
        exit_code=code,
        cause=cause,
        detail=detail,
        started=exit_.started,
        finished=max(exit_.finished, exit_.started),
        stdout=cut_text(module, logs.stdout, logs.stdout_size),
        stderr=cut_text(module, logs.stderr, logs.stderr_size),
        usage=Usage(
            cpu_seconds=exit_.cpu_seconds,
            memory_peak=exit_.memory_peak,
            io_read_bytes=exit_.io_read_bytes,
            io_write_bytes=exit_.io_write_bytes,
        ),
    )


def unusable(detail: str) -> Outcome:
    """Return the outcome of a message that cannot be handed to the program."""
    now = time.time()
    return Outcome(
        exit_code=UNUSABLE, cause=Cause.BAD_MESSAGE, detail=detail, started=now, finished=now
    )


def unwanted() -> Outcome:
    """Return the outcome of a task that was ended before its program began."""
    now = time.time()
    detail = "it was stopped before it began"
    return Outcome(exit_code=ORPHAN, cause=Cause.LOST, detail=detail, started=now, finished=now)


def cut_text(module: Module, data: bytes, size: int) -> Cut:
    """Return what is kept of a text, of which there was `size` in all."""
    cut = truncate(data, module.output_text_size, module.text_trunc_mode.value)
    if size > cut.size:
        cut = msgspec.structs.replace(cut, size=size, cut=True)
    return cut


def collect(
    module: Module, place: Workplace, directory: WorkDir, paths: Paths, outcome: Outcome
) -> Outcome:
    """Add what the program wrote down to the outcome of a run that ended with 0. Blocks."""
    try:
        outputs = contract.parse_outputs(
            directory.collect(), place.modules, zone=datetime.now().astimezone().tzinfo
        )
    except BadOutput as error:
        return msgspec.structs.replace(
            outcome, exit_code=UNUSABLE, cause=Cause.BAD_OUTPUT, detail=str(error)
        )
    auxout = cut_text(module, outputs.auxout, len(outputs.auxout)) if outputs.auxout else Cut()
    if outputs.status:
        detail = f"task-exec says status {outputs.status}"
        return msgspec.structs.replace(
            outcome, exit_code=outputs.status, auxout=auxout, detail=detail
        )
    return msgspec.structs.replace(
        outcome,
        emissions=outputs.emissions,
        auxout=auxout,
        extras=_extras(outputs, paths, data_root(module, place.surroundings)),
        removed=outputs.removed,
    )


def _extras(outputs: Outputs, paths: Paths, root: str) -> dict[str, object]:
    """Return what the run record keeps besides times and texts."""
    moved = account(outputs, paths, root)
    extras = dict(outputs.extras)
    if moved.input_bytes or moved.output_bytes:
        extras["input_bytes"] = moved.input_bytes
        extras["output_bytes"] = moved.output_bytes
    if moved.layers:
        extras["iobytes"] = moved.layers
    warnings = [*outputs.warnings, *moved.warnings]
    if warnings:
        extras["warnings"] = warnings[:WARNINGS_KEPT]
    return extras
