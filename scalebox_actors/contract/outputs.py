"""From the files that a run left to one value: which files, in which order, who wins."""

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from scalebox_actors.contract.attributes import MEASURED, TaskExec, extra_attributes, task_exec
from scalebox_actors.contract.insight import file_entries, network_io, removed_paths, timestamps
from scalebox_actors.contract.sinks import (
    check_count,
    known_module,
    parse_sink_jsonl,
    parse_sink_tasks,
)
from scalebox_actors.contract.texts import Line, Notes, loose_lines
from scalebox_actors.contract.values import Emission, FileEntry, Outputs
from scalebox_actors.limits import FILE_LINES, INSIGHT_LINES

# In the order in which they are read; all of them are, whoever wrote which.
_TASK_FILES: tuple[tuple[str, Callable[[bytes, Collection[str], str], list[Emission]]], ...] = (
    ("sink-tasks.txt", parse_sink_tasks),
    ("sink-tasks.jsonl", parse_sink_jsonl),
    ("messages.txt", parse_sink_tasks),
    ("output-messages.txt", parse_sink_tasks),
)
_TASK_EXEC = ("task-exec.yaml", "task-exec.json")
_TIMESTAMPS = ("timestamps.txt",)
_EXTRA = ("extra-attrs.yaml", "extra-attributes.txt")
_AUXOUT = ("auxout.txt", "custom-out.txt", "user-file.txt")
_INPUT = ("input-files.txt",)
_OUTPUT = ("output-files.txt",)
_NETWORK = ("network-files.txt",)
_REMOVED = ("removed-files.txt",)

READ_FILES: tuple[str, ...] = (
    *(name for name, _ in _TASK_FILES),
    *_TASK_EXEC,
    *_TIMESTAMPS,
    *_EXTRA,
    *_AUXOUT,
    *_INPUT,
    *_OUTPUT,
    *_NETWORK,
    *_REMOVED,
)
"""Every file that is read after a run, and cleared before the next one in the same directory."""


def parse_outputs(
    files: Mapping[str, bytes],
    modules: Collection[str],
    *,
    zone: dt.tzinfo | None = None,
) -> Outputs:
    """Return what the files of a run say; `files` are those of READ_FILES that exist.

    `modules` may be sent to; times without a zone are of `zone`, or stay without. Raises BadOutput
    that names file and line if the messages or the status of the run cannot be understood.
    """
    reader = _Reader(files, Notes())
    said = reader.task_exec()
    inputs, input_bytes = reader.files(_INPUT, said.input_files, said.input_bytes)
    outputs, output_bytes = reader.files(_OUTPUT, said.output_files, said.output_bytes)
    auxout = reader.first(_AUXOUT)
    user_text = None if said.user_text is None else said.user_text.encode()
    return Outputs(
        emissions=_emissions(files, modules, said),
        status=said.status,
        auxout=auxout[1] if auxout else user_text,
        extras=reader.extras(said, zone),
        input_files=inputs,
        output_files=outputs,
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        removed=reader.removed(),
        warnings=reader.notes.all(),
    )


def _emissions(
    files: Mapping[str, bytes], modules: Collection[str], said: TaskExec
) -> tuple[Emission, ...]:
    emissions: list[Emission] = []
    for name, parse in _TASK_FILES:
        if name in files:
            emissions += parse(files[name], modules, name)
            check_count(len(emissions), f"{name}:1")
    if said.body is not None:
        check_count(len(emissions) + 1, said.place)
        module = said.module and known_module(said.module, modules, said.place)
        emissions.append(Emission(module=module, body=said.body.encode(), headers={}))
    return tuple(emissions)


class _Reader(NamedTuple):
    """Finds files under their names old and new, and reads what never fails a run."""

    found: Mapping[str, bytes]
    notes: Notes

    def first(self, names: tuple[str, ...]) -> tuple[str, bytes] | None:
        """Return the file under its current name, else under an older one."""
        present = [name for name in names if name in self.found]
        for ignored in present[1:]:
            self.notes.warn(f"{ignored}: ignored beside {present[0]}")
        return (present[0], self.found[present[0]]) if present else None

    def task_exec(self) -> TaskExec:
        file = self.first(_TASK_EXEC)
        return task_exec(file[1], file[0], self.notes) if file else TaskExec()

    def lines(
        self, names: tuple[str, ...], limit: int, instead: list[str] | None = None
    ) -> tuple[str, Iterator[Line]] | None:
        """Return a file's lines, or those that task-exec gives in place of an absent file."""
        file = self.first(names)
        if file:
            return file[0], loose_lines(file[1], file[0], self.notes, limit)
        if instead is None:
            return None
        data = "\n".join(instead).encode()
        source = f"task-exec ({names[0]})"
        return source, loose_lines(data, source, self.notes, limit)

    def files(
        self, names: tuple[str, ...], instead: list[str] | None, declared: int | None
    ) -> tuple[tuple[FileEntry, ...], int | None]:
        """Return the files to measure, and the declared bytes if no file outranks them."""
        lines = self.lines(names, FILE_LINES, instead)
        entries = file_entries(lines[1], lines[0], self.notes) if lines else ()
        if names[0] in self.found:
            return entries, None if entries else 0
        return entries, declared

    def removed(self) -> tuple[str, ...]:
        lines = self.lines(_REMOVED, FILE_LINES)
        return removed_paths(lines[1], lines[0], self.notes) if lines else ()

    def extras(self, said: TaskExec, zone: dt.tzinfo | None) -> dict[str, object]:
        file = self.first(_EXTRA)
        given = extra_attributes(file[1], file[0], self.notes) if file else {}
        extras = {key: value for key, value in given.items() if key not in MEASURED}
        declared = {key: value for key, value in given.items() if key in MEASURED}
        counts = {"input_bytes": said.input_bytes, "output_bytes": said.output_bytes}
        declared |= {key: count for key, count in counts.items() if count is not None}
        if declared:
            extras["declared"] = declared
        if lines := self.lines(_TIMESTAMPS, INSIGHT_LINES, said.timestamps):
            extras["timestamps"] = timestamps(lines[1], lines[0], self.notes, zone)
        if lines := self.lines(_NETWORK, INSIGHT_LINES):
            extras["network_io"] = network_io(lines[1], lines[0], self.notes)
        return extras
