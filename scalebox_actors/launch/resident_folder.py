"""The folders of a resident program on the host: its door, its work directory, its errands.

Layout: `<base>/<name>/` is ours alone (0700). In it `door/` holds the two pipes and the gate and is
mounted read-only; `work/` is mounted writable as the program's work directory. An *errand* is a
folder below it with the files of one message. It is prepared out of the program's reach and renamed
into place, and renamed out of it before it is removed: so whatever a program does to its own
folders, links above all, we never write or remove through them.

Everything here blocks.
"""

import contextlib
import os
import secrets
from pathlib import Path

from scalebox_actors.launch.pipes import Pipes
from scalebox_actors.launch.workdir import OWNER, discard, write_inputs
from scalebox_actors.limits import RESIDENT_LINE_BYTES
from scalebox_actors.ports import Task
from scalebox_actors.trees import remove_tree

GATE = """\
# What the container of a resident program executes first: it puts the pipes where the program
# looks for them, and is gone. Diagnostics stay on standard error, in the container's log.
exec "$@" <"${0%/*}/in" >"${0%/*}/out"
"""


class ResidentFolder:
    """What one life of a resident program has on the host."""

    def __init__(self, base: Path, name: str, owner: str) -> None:
        self.parent = base / name
        self.door, self.work = self.parent / "door", self.parent / "work"
        self._owner = owner

    @property
    def gate(self) -> str:
        """The name of the gate in the door."""
        return "gate"

    def make(self) -> None:
        """Make it anew; what an earlier life left under its name is removed."""
        discard(self.parent)
        self.parent.mkdir(parents=True, mode=0o700)
        (self.parent / OWNER).write_text(self._owner, "utf-8")
        for folder, mode in ((self.door, 0o755), (self.work, 0o777)):  # any image user
            folder.mkdir(mode=0o700)
            folder.chmod(mode)
        gate = self.door / self.gate
        gate.write_text(GATE, "ascii")
        gate.chmod(0o644)

    def pipes(self) -> Pipes:
        """Make and open the pipes of the door."""
        return Pipes.make(self.door, longest=RESIDENT_LINE_BYTES)

    def send(self, task: Task) -> str:
        """Put the files of a message where the program finds them, and return their folder."""
        errand = secrets.token_hex(8)  # nothing that is there already
        ours = self.parent / f".{errand}"
        ours.mkdir(mode=0o700)
        write_inputs(str(ours), task)
        ours.chmod(0o777)
        ours.rename(self.work / errand)
        return errand

    def fetch(self, errand: str) -> None:
        """Remove the folder of a message; what cannot be removed now goes with the whole."""
        ours = self.parent / f".{errand}"
        with contextlib.suppress(OSError):
            os.rename(self.work / errand, ours)  # noqa: PTH104 - of a link, the link itself
            remove_tree(ours)

    def remove(self) -> None:
        """Remove it with everything in it; safe to repeat."""
        discard(self.parent)
