"""The files of the work directory: what a program reads, and what it may write. Pure.

`arguments` and `render_batch_*` are the way in, `parse_outputs` is the way out: bytes in, values
out. What a run says about *messages* (task files, `task-exec`) must be right to the letter, or
the whole run is unusable (BadOutput, exit code 120); what it says about *itself* (times, files,
attributes) only warns, since insight is never worth a finished run.
"""

from scalebox_actors.contract.headers import header_values, is_system_header
from scalebox_actors.contract.invocation import (
    arguments,
    render_batch_jsonl,
    render_batch_txt,
)
from scalebox_actors.contract.outputs import READ_FILES, parse_outputs
from scalebox_actors.contract.sinks import parse_sink_jsonl, parse_sink_tasks
from scalebox_actors.contract.texts import truncate
from scalebox_actors.contract.values import Cut, Emission, FileEntry, Outputs

__all__ = [
    "READ_FILES",
    "Cut",
    "Emission",
    "FileEntry",
    "Outputs",
    "arguments",
    "header_values",
    "is_system_header",
    "parse_outputs",
    "parse_sink_jsonl",
    "parse_sink_tasks",
    "render_batch_jsonl",
    "render_batch_txt",
    "truncate",
]
