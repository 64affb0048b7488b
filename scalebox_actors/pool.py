"""What a node may use of its host, and who has how much of it. Pure.

A run takes its module's claim before it starts and gives it back when it has ended, so that what
runs together never claims more than there is. Who comes while there is too little stands in one
line and nobody overtakes: a large claim waits for small ones to end and not for a lucky moment.
"""

from collections.abc import Callable

import msgspec

from scalebox_actors.topology.model import LASTING, Launch, Module
from scalebox_actors.topology.quantity import show_size

MANY = 1_000_000
"""How often a claim fits into what is not limited."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What one run needs; CPUs in thousandths, so that sums are exact."""

    memory: int = 0
    millicpus: int = 0
    gpus: int = 0

    def __bool__(self) -> bool:
        return bool(self.memory or self.millicpus or self.gpus)

    def times(self, count: int) -> "Claim":
        """Return what so many take together."""
        return Claim(
            memory=self.memory * count, millicpus=self.millicpus * count, gpus=self.gpus * count
        )


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a node may use; None is not limited."""

    memory: int | None = None
    millicpus: int | None = None
    gpus: tuple[int, ...] = ()
    """The indexes of its GPUs."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one run has: a claim, and which GPUs."""

    memory: int = 0
    millicpus: int = 0
    gpus: tuple[int, ...] = ()


class InUse(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a node is taken, for people who look."""

    room: Room = Room()
    taken: Share = Share()
    waiting: int = 0
    """How many stand in line."""


def run_claim(module: Module) -> Claim:
    """Return what a run takes; where containers stay it is they who take it, for good."""
    return Claim() if module.launch in LASTING else claim_of(module)


def claim_of(module: Module) -> Claim:
    """Return what a container of a module takes: its `limits`; a function is part of the node."""
    wish = module.limits
    if module.launch is Launch.FUNCTION:
        return Claim()
    millicpus = max(1, round((wish.cpus or 0) * 1000)) if wish.cpus else 0
    return Claim(memory=int(wish.memory or 0), millicpus=millicpus, gpus=wish.gpus)


def whole_claim(module: Module) -> Claim:
    """Return the least that a node must have to take the module at all."""
    return claim_of(module).times(module.slots if module.launch in LASTING else 1)


def lack(claim: Claim, room: Room) -> str:
    """Return why a claim can never be met in a room, or nothing."""
    if room.memory is not None and claim.memory > room.memory:
        return _sentence(show_size(claim.memory), f"{show_size(room.memory)} of memory", "--memory")
    if room.millicpus is not None and claim.millicpus > room.millicpus:
        return _sentence(f"{claim.millicpus / 1000:g}", f"{room.millicpus / 1000:g} CPUs", "--cpus")
    if claim.gpus > len(room.gpus):
        return _sentence(claim.gpus, f"{len(room.gpus)} GPUs", "--gpus")
    return ""


def _sentence(wish: object, room: str, flag: str) -> str:
    return f"needs {wish}, but a node may use {room} here ({flag})"


def share_text(share: Share) -> str:
    """Return a share as a label's text, for a node that comes back: `memory:cpus:gpu,gpu`."""
    gpus = ",".join(map(str, share.gpus))
    return f"{share.memory}:{share.millicpus}:{gpus}"


def read_share(text: str) -> Share | None:
    """Read a share from a label; None for what is none of ours."""
    parts = text.split(":")
    try:
        memory, millicpus = int(parts[0]), int(parts[1])
        gpus = tuple(int(index) for index in parts[2].split(",") if index)
    except (ValueError, IndexError):
        return None
    return Share(memory=memory, millicpus=millicpus, gpus=gpus)


Key = tuple[str, str]
"""A node, and the name of a run there: several nodes of one process share a pool."""


class Ticket:
    """A place in the line, and when its turn has come the share."""

    def __init__(self, claim: Claim, granted: Callable[[], None]) -> None:
        self.claim, self.granted = claim, granted
        self.share: Share | None = None


class Pool:
    """The resources of a node; shared by its modules, and by all nodes of one process."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.watchers: list[Callable[[], None]] = []
        """Told after every change of what is free or of the line."""
        self.left: dict[Key, Share] = {}
        """Shares of runs that go on without anybody who has them in hand."""
        self._held: dict[Ticket, Share] = {}
        self._line: list[Ticket] = []
        self._standing: list[Ticket] = []
        """Of containers that stay."""
        self._memory, self._millicpus = 0, 0
        self._gpus = sorted(room.gpus)

    @property
    def in_use(self) -> InUse:
        """How much is taken, that of runs left alone included."""
        shares = [*self._held.values(), *self.left.values()]
        gpus = tuple(sorted({index for share in shares for index in share.gpus}))
        taken = Share(memory=self._memory, millicpus=self._millicpus, gpus=gpus)
        return InUse(room=self.room, taken=taken, waiting=len(self._line))

    def count(self, claim: Claim) -> int:
        """Return how many claims could be met at once now; none while somebody stands in line."""
        if self._line:
            return 0
        fits = MANY
        if claim.memory and self.room.memory is not None:
            fits = min(fits, (self.room.memory - self._memory) // claim.memory)
        if claim.millicpus and self.room.millicpus is not None:
            fits = min(fits, (self.room.millicpus - self._millicpus) // claim.millicpus)
        if claim.gpus:
            fits = min(fits, len(self._gpus) // claim.gpus)
        return max(0, fits)

    def join(self, claim: Claim, granted: Callable[[], None] = lambda: None) -> Ticket:
        """Stand in line; the share is there at once if nobody waits and there is enough.

        `granted` is called if it comes later. A claim that can never be met is refused.
        """
        if why := lack(claim, self.for_runs):
            raise ValueError(why)
        ticket = Ticket(claim, granted)
        if self.count(claim):
            self._give(ticket)
        else:
            self._line.append(ticket)
        self._tell()
        return ticket

    @property
    def for_runs(self) -> Room:
        """What there is beside the containers that stay."""
        memory, millicpus = self.room.memory, self.room.millicpus
        shares = [ticket.share for ticket in self._standing if ticket.share is not None]
        taken = {index for share in shares for index in share.gpus}
        return Room(
            memory=None if memory is None else memory - sum(s.memory for s in shares),
            millicpus=None if millicpus is None else millicpus - sum(s.millicpus for s in shares),
            gpus=tuple(index for index in self.room.gpus if index not in taken),
        )

    def reserve(self, claim: Claim, count: int) -> list[Ticket]:
        """Take so many claims for containers that stay, until they `leave`; all, or none."""
        if not claim or self.count(claim) < count:
            return []
        tickets = [self.join(claim) for _ in range(count)]
        self._standing += tickets
        return tickets

    def leave(self, ticket: Ticket) -> None:
        """Give a share back, or a place in the line up; may be repeated."""
        if ticket in self._standing:
            self._standing.remove(ticket)
        share = self._held.pop(ticket, None)
        if share is not None:
            self._return(share)
        elif ticket in self._line:
            self._line.remove(ticket)
        else:
            return
        self._advance()

    def leave_behind(self, ticket: Ticket, run: Key) -> None:
        """Let go of a run that may go on: its share is kept for it until `forget`."""
        share = self._held.pop(ticket, None)
        if share is None:
            self.leave(ticket)
        elif run in self.left:
            self._return(share)
            self._advance()
        else:
            self.left[run] = share

    def adopt(self, run: Key, share: Share) -> None:
        """Count a run that goes on from before; there may then be less than nothing free."""
        if run not in self.left:
            self.left[run] = share
            self._take(share)
            self._tell()

    def take_over(self, run: Key) -> Ticket | None:
        """Return the ticket of a run that was left alone, for whoever has it in hand now."""
        share = self.left.pop(run, None)
        if share is None:
            return None
        claim = Claim(memory=share.memory, millicpus=share.millicpus, gpus=len(share.gpus))
        ticket = Ticket(claim, lambda: None)
        ticket.share = self._held[ticket] = share
        return ticket

    def forget(self, run: Key) -> None:
        """Give back the share of a run that was left alone and has ended."""
        share = self.left.pop(run, None)
        if share is not None:
            self._return(share)
            self._advance()

    def _advance(self) -> None:
        """Let those in front go in, as long as there is enough for the first."""
        waiting, self._line = self._line, []
        met = 0
        while met < len(waiting) and self.count(waiting[met].claim):
            self._give(waiting[met])
            met += 1
        self._line = waiting[met:] + self._line
        for ticket in waiting[:met]:
            ticket.granted()
        self._tell()

    def _give(self, ticket: Ticket) -> None:
        claim = ticket.claim
        gpus = tuple(self._gpus[: claim.gpus])
        share = Share(memory=claim.memory, millicpus=claim.millicpus, gpus=gpus)
        ticket.share = self._held[ticket] = share
        self._take(share)

    def _take(self, share: Share) -> None:
        self._memory += share.memory
        self._millicpus += share.millicpus
        self._gpus = [index for index in self._gpus if index not in share.gpus]

    def _return(self, share: Share) -> None:
        self._memory -= share.memory
        self._millicpus -= share.millicpus
        # One that runs of two lives have is free when both are over; one that the operator has
        # taken away meanwhile is not given out again.
        shares = [*self._held.values(), *self.left.values()]
        used = {index for other in shares for index in other.gpus}
        back = {index for index in share.gpus if index in self.room.gpus} - used
        self._gpus = sorted({*self._gpus, *back})

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher()


def stand(pool: Pool, module: Module) -> tuple[list[Ticket], str]:
    """Take what a module's containers that stay need; or say why there is no room for them."""
    claim = claim_of(module)
    if module.launch not in LASTING or not claim:
        return [], ""
    tickets = pool.reserve(claim, module.slots)
    why = lack(whole_claim(module), pool.room) or "others have taken what they need"
    return tickets, "" if tickets else f"for its {module.slots} containers that stay: {why}"
