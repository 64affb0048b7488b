"""The seams of the engine: what an actor needs of a broker and of a container runtime.

This is the page to read before writing a runtime or a broker. Durations are in seconds, sizes in
bytes, times in seconds since the epoch. Every method may raise only our own errors (errors.py).
Adapters retry what is transient themselves: a call returns when it has an answer.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

import msgspec

from scalebox_actors.crossing import Passage
from scalebox_actors.limits import HEADER_BLOCK_BYTES
from scalebox_actors.message import USER, Message, Raw
from scalebox_actors.names import Names
from scalebox_actors.pool import Share
from scalebox_actors.records import Outcome
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.staying import Staying

# --- the broker ---------------------------------------------------------------------------------


FEW_HEADERS = 12
"""What our own system headers may come to; with so few a message's headers are small."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be stored, as one member of an atomic batch."""

    subject: str
    body: bytes = b""
    headers: Mapping[str, str] = {}
    expect: int | None = None
    """The sequence that the subject's last message must have; 0 means there must be none."""

    @property
    def size(self) -> int:
        """What the entry takes on the wire, guessed from above."""
        if len(self.headers) > FEW_HEADERS:
            return len(self.body) + HEADER_BLOCK_BYTES
        return len(self.body) + len(self.headers.get(USER, "")) + 1024


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A message as the stream holds it."""

    subject: str
    body: bytes
    headers: Mapping[str, str]
    sequence: int
    time: float


class Refused(StrEnum):
    """Why a batch was not stored; nothing of a refused batch is stored."""

    CONFLICT = "conflict"
    """A subject's last message is not the expected one (10071, 10164)."""
    DUPLICATE = "duplicate"
    """An id was stored within the de-duplication window (10201)."""
    UNACCEPTABLE = "unacceptable"
    """A member is denied, too large or outside the stream (10176, 10054, 10060)."""


class Refusal(msgspec.Struct, frozen=True):
    """The broker's No to a whole batch; the answer does not say which member caused it."""

    kind: Refused
    text: str = ""
    denied: bool = False
    """Whether it is our login that may not store this."""


class Backlog(msgspec.Struct, frozen=True):
    """How much a module has before it: messages waiting, and messages in somebody's hands."""

    waiting: int
    in_hand: int
    paused_until: float = 0.0


Answer = Callable[[bytes], Awaitable[bytes]]


class Delivery(Protocol):
    """A message in our hands.

    From the pull to `done`, `give_back` or `let_go` the broker is told every 20 s that it is
    still being worked on; whoever holds it need not.
    """

    @property
    def raw(self) -> Raw:
        """The message as it came."""

    @property
    def message_id(self) -> str:
        """Its id: the given one if that is usable, else one derived from its place."""

    @property
    def sequence(self) -> int:
        """Its place in the stream, the same for every delivery of it."""

    @property
    def redelivered(self) -> bool:
        """Whether it may have been in somebody's hands before."""

    @property
    def stored(self) -> float:
        """When the server stored it, by the server's clock."""

    async def done(self) -> None:
        """Take the message out of the stream; returns when the server has confirmed it."""

    async def give_back(self, delay: float) -> None:
        """Let it be delivered again after `delay`."""

    def let_go(self) -> None:
        """Say nothing more about it: it is delivered again when its `ack_wait` has passed.

        After `done` or `give_back` nothing happens.
        """


class Intake(AbstractAsyncContextManager["Intake"], Protocol):
    """Deliveries of one module, never more of them than were asked for."""

    def grant(self, slots: int) -> None:
        """Let `slots` more deliveries come; call once at first and again as slots fall free."""

    def hold(self) -> None:
        """Ask for nothing more until `grant` is called again; unanswered grants are forgotten."""

    def foretell(self, tell: Callable[["Delivery"], None]) -> None:
        """Say of deliveries as they come, before they are handed out; not all of them are."""

    async def more(self, most: int) -> Sequence[Delivery]:
        """Return up to `most` further deliveries that wait now; never waits for one to come.

        They need no grant. What somebody else has asked for before is not taken from him.
        """

    def __aiter__(self) -> AsyncIterator[Delivery]: ...


class Broker(Protocol):
    """The stream of one topology at one site."""

    @property
    def names(self) -> Names:
        """The topology and site that this is the stream of."""

    @property
    def body_limit(self) -> int:
        """The largest body: the server's max_payload less 16 KiB."""

    def intake(self, module: str) -> Intake:
        """Return the deliveries of `module`; use as an async context manager."""

    def intake_to(self, site: str) -> Intake:
        """Return what waits here to be carried to another site; its subjects name the module."""

    async def forward(self, entries: Sequence[Entry], *, seconds: float) -> Sequence[Passage]:
        """Store entries in another site's stream, and say of each what became of it.

        Never raises for what happens on the way; nothing is tried twice and nothing waited for
        longer than about `seconds`. Every entry must have an id: that is what makes it safe to
        hand one over again.
        """

    async def write(self, entries: Sequence[Entry], *, soon: bool = True) -> Refusal | None:
        """Store all entries or none, in their order; None means stored and synced to disk.

        At most 1,000 entries and 16 MiB. A full stream, a lost connection or too many batches in
        flight are waited out here. An answer that was lost is repeated: entries with `expect`
        then come back as CONFLICT, which is why the first entry of every commit has one. What
        need not be stored `soon` may wait a moment for company.
        """

    async def read(self, subject: str) -> Stored | None:
        """Return the last message on `subject`, which may not have wildcards."""

    async def read_all(self, pattern: str, *, start: int = 1, most: int = 10_000) -> list[Stored]:
        """Return messages on subjects that match `pattern`, oldest first, from a sequence on."""

    async def purge(self, pattern: str, *, keep: int = 0) -> None:
        """Remove the messages on matching subjects but the `keep` newest of each subject."""

    async def get_state(self, key: str) -> bytes | None:
        """Return the value of a key of the topology's state bucket."""

    async def put_state(self, key: str, value: bytes, *, life: float = 0.0) -> None:
        """Set a key of the state bucket; it is forgotten after `life` seconds unless 0."""

    async def state_keys(self, prefix: str) -> Sequence[str]:
        """Return the keys of the state bucket that begin with `prefix` and a dot."""

    async def backlog(self, module: str) -> Backlog:
        """Return how much waits for `module`."""

    async def waiting_to(self, site: str) -> int:
        """Return how many messages are here to be carried to another site."""

    async def trace(self, node: str, lines: bytes) -> None:
        """Write run records, one JSON line each, to the trace stream; insight may be lost."""

    async def duplicates(self, entries: Sequence[Entry]) -> set[int]:
        """Return the places of those entries whose ids are in the de-duplication window.

        So are those that repeat the id of an earlier entry of the same list. Stores nothing.
        Asked only after a DUPLICATE, so it may cost several round trips.
        """

    async def clock(self) -> float:
        """Return the server's time."""

    async def serve(self, verb: str, answer: Answer) -> None:
        """Answer requests on `ctl.<verb>` until the connection ends; requests are never stored."""

    async def ask(self, verb: str, question: bytes, *, wait: float = 1.0) -> list[bytes]:
        """Ask every node on `ctl.<verb>` and return what came within `wait` seconds."""


# --- the runtime --------------------------------------------------------------------------------


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended; times are 0 where they are not known."""

    code: int
    out_of_memory: bool = False
    lost: bool = False
    """It vanished, or the engine or somebody outside ended it: no verdict of the program."""
    not_started: bool = False
    """The engine could not execute the program: not found, not executable, unknown user."""
    started: float = 0.0
    finished: float = 0.0
    detail: str = ""
    cpu_seconds: float | None = None
    memory_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """The ends of what a container printed, and how much of it there was in all."""

    stdout: bytes = b""
    stderr: bytes = b""
    stdout_size: int = 0
    stderr_size: int = 0


class Stray(msgspec.Struct, frozen=True, kw_only=True):
    """A container with our labels, as the reaper finds it."""

    name: str
    labels: Mapping[str, str]
    running: bool
    finished: float = 0.0
    """When it ended; for one that was created and never started, when it was created."""


class Run(Protocol):
    """One container of ours, created, running or exited."""

    @property
    def name(self) -> str:
        """The container's name."""

    @property
    def adopted(self) -> bool:
        """Whether it was there before we asked for it."""

    @property
    def waits(self) -> bool:
        """Whether its lane was full when it was asked for, so that it waits for its turn."""

    async def begun(self, patience: float, *, leave: bool) -> float | None:
        """Return when it began, 0 if that is not known; None if it waits after `patience`, too.

        With `leave` it is then taken out of line, and never begins.
        """

    async def wait(self) -> Exit:
        """Return how it ended. Never raises for the program's own failure or an engine restart."""

    async def stop(self, grace: float) -> None:
        """End it and everything it started: a terminate signal, after `grace` a kill."""

    async def logs(self, most: int) -> Logs:
        """Return the last `most` bytes of each output of an ended container."""


class Runtime(Protocol):
    """Where containers run."""

    @property
    def kind(self) -> str:
        """`docker`, `process`, …: the word for `--runtime`."""

    @property
    def work_path(self) -> str:
        """The work directory as the program sees it; empty: the same path as on the host."""

    @property
    def lanes(self) -> bool:
        """Whether it lets runs of a lane take turns; else whoever asks for them has to."""

    async def find(self, name: str) -> Run | None:
        """Return the run of that name that has our labels, running or exited, or None."""

    async def adopt_or_start(self, spec: ContainerSpec) -> Run:
        """Return the run named `spec.name`, running or exited; start it if there is none.

        Safe to repeat: a caller that died and came back gets the same run. A run of an earlier
        attempt (label `sbx.attempt`) is removed first, one that was created and never started is
        started. Raises ImageMissing or SpecRejected (permanent), RuntimeUnavailable (transient).
        """

    async def rename(self, name: str, new: str) -> bool:
        """Give a run another name, running or exited; False if `new` is taken or it has gone.

        Of callers at the same moment one is told True. Runs in hand go by the new name.
        """

    async def remove(self, name: str) -> None:
        """Remove a run, ending it if it still lives; nothing happens if there is none."""

    async def stray(self, labels: Mapping[str, str]) -> list[Stray]:
        """Return every container that carries all of `labels`."""

    async def missing(self, images: Sequence[str]) -> list[str]:
        """Return those images that are not on this host."""

    async def identity(self, image: str) -> str:
        """Return what an image's name stands for now; empty if that is nothing, or unknown."""

    async def check(self) -> None:
        """Raise RuntimeUnavailable, with the reason, if the engine does not answer."""

    async def close(self) -> None:
        """Let go of the engine; containers run on."""


# --- launching ----------------------------------------------------------------------------------


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One message at one module, about to be run."""

    message: Message
    attempt: int = 1
    """The number of this run; the first is 1."""
    members: tuple[Message, ...] = ()
    """For a joined message: the members of its group."""
    slot: int = 0
    """Which of the module's slots on this node it runs in, from 0."""
    share: Share = Share()
    """What of the node it has for itself."""

    @property
    def key(self) -> tuple[str, str]:
        """Module and id: what makes the task this one."""
        return self.message.module, self.message.id


class Launcher(Staying, Protocol):
    """How a module's program meets its messages: one of the launch modes."""

    @property
    def costly(self) -> bool:
        """Whether a run costs more than to ask first if the task has ended already."""

    async def underway(self, task: Task) -> bool:
        """Whether running `task` would adopt a run of this attempt instead of starting one."""

    async def run(self, task: Task) -> Outcome:
        """Run the task under its time limit and return what happened.

        The program's own failure is an outcome. Raises ImageMissing and SpecRejected (permanent)
        and RuntimeUnavailable (transient); then nothing was started.
        """

    async def stop(self, task: Task) -> None:
        """End the task's run, if there is one; `run` then returns its outcome."""

    async def clear(self, task: Task, outcome: Outcome | None = None) -> None:
        """Remove what the run left, container and work directory; safe to repeat.

        With the outcome of a success, also the files that its program declared as removable.
        """

    async def ready(self) -> None:
        """Raise ImageMissing, SpecRejected or RuntimeUnavailable if nothing could start now."""
