"""The gate of a warm container, from the node's side: what it is given, and what its end means.

Pure, but for the text of the script `gate.sh`, which lies in the door beside the pipes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from scalebox_actors.launch.words import exports, quoted, words_of
from scalebox_actors.limits import WARM_ARGUMENT_BYTES
from scalebox_actors.ports import Exit, Logs

SCRIPT_NAME = "gate.sh"
GO = b"go\n"
READY, ABSENT = b"ready", b"absent"
LAST_WORD = "--"
"""What follows the program among the gate's arguments; the gate takes it off."""
SAYS = 1024
"""So many bytes of the log's end tell what became of the gate."""
SCRIPT = Path(__file__).with_name(SCRIPT_NAME).read_bytes()

_CLOSED = 125
_UNEXECUTED = (126, 127)
_NEVER_OPENED = b"sbx-gate: never opened\n"
_NOT_EXECUTED = b"sbx-gate: not executed\n"
_SHELLS_OWN = frozenset(
    (
        *("PWD", "OLDPWD", "SHLVL", "PPID", "OPTIND", "IFS", "PS1", "PS2", "PS4", "LINENO", "_"),
        *("RANDOM", "HISTCMD", "SHELLOPTS", "BASHOPTS", "POSIXLY_CORRECT", "BASH", "BASHPID"),
    )
)
"""Variables that one shell or another sets for itself, whatever it was given."""


def wrapper(door: str) -> tuple[str, ...]:
    """Return what a warm container executes, by the door's path as it sees it."""
    return ("/bin/sh", f"{door}/{SCRIPT_NAME}")


def cannot_pass(names: Iterable[str]) -> list[str]:
    """Return those variables that no shell can be trusted to hand on."""
    return sorted(_SHELLS_OWN.intersection(names))


def fits(arguments: Sequence[str]) -> bool:
    """Whether a message is small enough to be read by a shell first."""
    sizes = (len(text.encode("utf-8", "surrogateescape")) for text in arguments)
    return sum(sizes) <= WARM_ARGUMENT_BYTES


def opening(
    arguments: Sequence[str], env: Mapping[str, str], known: Mapping[str, str], work: str
) -> bytes:
    """Return the file `run`: it makes the gate the program, with these arguments after it.

    `env` is what the program is to have, `known` what the container was made with.
    """
    changed = {name: value for name, value in env.items() if known.get(name) != value}
    gone = ["PWD", "OLDPWD", "SHLVL", *(name for name in known if name not in env)]
    return b"".join(
        (
            exports(changed),
            b"cd %s || exit 126\n" % quoted(work),
            b"unset %s\n" % " ".join(gone).encode(),
            b'exec "$@"%s\n' % words_of(arguments),
        )
    )


def never_opened(exit_: Exit, logs: Logs) -> bool:
    """Whether a container ended at its gate, because its node did: nothing of a task was run."""
    return exit_.code == _CLOSED and not logs.stdout_size and logs.stderr == _NEVER_OPENED


def passed(exit_: Exit, logs: Logs, opened: float) -> Exit:
    """Return the end of a run that began when the gate was opened."""
    words = not_executed(exit_, logs)
    return msgspec.structs.replace(
        exit_,
        started=max(exit_.started, opened),
        not_started=exit_.not_started or bool(words),
        detail=words or exit_.detail,
    )


def not_executed(exit_: Exit, logs: Logs) -> str:
    """Return what the shell said if it could not execute the program, else nothing."""
    if exit_.code not in _UNEXECUTED or exit_.lost or logs.stdout_size:
        return ""
    said, marker, rest = logs.stderr.rpartition(_NOT_EXECUTED)
    if not marker or rest:
        return ""
    return said.decode("utf-8", "replace").strip() or "the program could not be executed"
