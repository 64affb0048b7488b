"""What a container's init says when it cannot execute the program: the start itself succeeded."""

import re

import msgspec

from scalebox_actors.ports import Exit, Run

INIT_FAILED = frozenset((1, 126, 127))
"""The codes with which an init ends that cannot execute the program."""
INIT_SAYS = 4096
_TINI = re.compile(rb"\[FATAL tini \(\d+\)\] (exec .* failed: .*)\n?", re.DOTALL)
_CATATONIT = re.compile(rb"ERROR \(catatonit:\d+\): (failed to exec .*)\n?", re.DOTALL)


def init_failure(stderr: bytes) -> str:
    """Return what docker's or podman's init said if it could not execute the program, else ``."""
    found = _TINI.fullmatch(stderr) or _CATATONIT.fullmatch(stderr)
    return found[1].decode("utf-8", "replace").strip() if found else ""


def judged(code: int, stdout_size: int, stderr: bytes) -> tuple[int, str]:
    """Return code and reason of a run that never executed its program; no reason if it did.

    The code is that of a shell, also where the init has another.
    """
    words = init_failure(stderr) if code in INIT_FAILED and not stdout_size else ""
    if words and code == 1:
        code = 127 if "no such file" in words.lower() else 126
    return code, words


async def judged_end(end: Exit, run: Run) -> Exit:
    """Return how a run ended; one whose init could not execute the program was never started."""
    if end.code not in INIT_FAILED or end.lost or end.not_started:
        return end
    logs = await run.logs(INIT_SAYS)
    code, words = judged(end.code, logs.stdout_size, logs.stderr)
    if not words:
        return end
    return msgspec.structs.replace(end, code=code, not_started=True, detail=words)
