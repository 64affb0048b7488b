"""Launch mode `resident`: the program stays, reads messages as lines and writes answers.

`ResidentLauncher.run` hands a message to a program that has room and waits for its answer. Which
program that is, when one is started and when there is no point in starting another is decided
here; what happens inside of one life of a program is in resident_life.py.

Nothing of it is state of record. A node that dies leaves its programs reading the end of their
input; the next one removes them, and their messages come again.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from scalebox_actors.contract import resident as lines
from scalebox_actors.contract.values import Cut
from scalebox_actors.errors import (
    NODE_ENDS,
    BadOutput,
    ImageMissing,
    NotAdmitted,
    RuntimeUnavailable,
    SbxError,
    SpecRejected,
)
from scalebox_actors.launch.outcomes import cut_text
from scalebox_actors.launch.resident_fate import (
    SHOWN,
    Again,
    Asked,
    Death,
    Ending,
    Said,
    Why,
    fate,
    lost,
    not_started,
    stopped,
)
from scalebox_actors.launch.resident_life import Life
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.limits import CLOSE_GRACE, RESIDENT_IN_HAND, RESIDENT_REPEATS, STOP_GRACE
from scalebox_actors.ports import Task
from scalebox_actors.records import UNUSABLE, Cause, Outcome
from scalebox_actors.topology.model import Module

PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before a program is started again: after so many lives on end that came to nothing."""
KILLERS = 1000
"""So many tasks that ended a program are remembered."""
CANNOT_EXECUTE = (126, 127)
"""What a shell ends with when there is no such program: trying again will not make one."""

log = logging.getLogger(__name__)


class ResidentLauncher:
    """Runs a module's tasks by asking programs that stay, `slots` of them."""

    def __init__(self, module: Module, place: Workplace) -> None:
        self._module, self._place = module, place
        self._waiting: deque[Asked] = deque()
        self._asked: dict[tuple[str, str], Asked] = {}
        self._lives: dict[int, Life] = {}
        self._keepers: set[asyncio.Task[None]] = set()
        self._in_flight = 1
        """How many messages a program takes at once, as the last one said."""
        self._says_ready = self._spoke = False
        self._unopened = self._fruitless = 0
        """Lives on end that did not get ready, and that answered nothing."""
        self._opens_at = 0.0
        self._later: asyncio.TimerHandle | None = None
        self._trial: asyncio.Future[None] | None = None
        self._killers: dict[tuple[str, str], None] = {}
        """Tasks that ended a program which had nothing else: they get one for themselves again."""
        self._tell_room: Callable[[int], None] | None = None
        self._closed = False

    @property
    def costly(self) -> bool:
        """A line costs less than a look at the done-record; the commit fences in any case."""
        return False

    @property
    def ends_runs(self) -> bool:
        """A program ends with its node, whatever it has in hand."""
        return True

    @property
    def states(self) -> Mapping[str, int]:
        """How many of the slots are in which state."""
        states = Counter(life.state for life in self._lives.values())
        closed = self._module.slots - len(self._lives)
        return states + Counter({"OFF": closed})

    async def underway(self, task: Task) -> bool:
        """Nothing is ever adopted: what a program did for a node that died, nobody hears of."""
        del task
        return False

    async def run(self, task: Task) -> Outcome:
        """Hand the task to a program and wait until one has answered it, or is to be blamed."""
        self._place.require_room()
        asked = Asked(task, asyncio.get_running_loop().create_future())
        asked.alone = task.key in self._killers
        self._asked[task.key] = asked
        try:
            said = await self._ask(asked)
        finally:
            del self._asked[task.key]
            if asked in self._waiting:
                self._waiting.remove(asked)
        return said if isinstance(said, Outcome) else self._outcome(asked, said)

    async def stop(self, task: Task) -> None:
        """End the program that has the task; one that waits is not given to any."""
        asked = self._asked.get(task.key)
        if asked is None:
            return
        asked.stopped = True
        life = next((life for life in self._lives.values() if asked.id in life.in_flight), None)
        if life is not None:
            life.end(Ending(Why.STOPPED))
        elif asked in self._waiting and not asked.end.done():
            self._waiting.remove(asked)
            asked.end.set_result(stopped(asked))

    async def clear(self, task: Task, outcome: Outcome | None = None) -> None:
        """Nothing of a task is left behind: its files went with its answer."""

    async def ready(self) -> None:
        """Raise what keeps a program from starting; after failed starts, try one."""
        await self._place.runtime.check()
        image = self._module.image
        if image and await self._place.runtime.missing([image]):
            raise ImageMissing(f"image {image!r} is not on this host")
        self._place.require_room()
        if self._unopened and not self._lives:
            self._trial = asyncio.get_running_loop().create_future()
            self._open(0)
            await self._trial

    def holds(self, name: str) -> bool:
        """Whether a container or a folder of that name is in use."""
        return any(life.name == name for life in self._lives.values())

    def open(self) -> None:
        """Nothing is started before there is a message."""

    def hold(self) -> None:
        """Nothing waits here for what may not come: programs are started as before."""

    def watch_room(self, tell: Callable[[int], None]) -> None:
        """Have `tell` called with how many tasks may be in hand, whenever that changes."""
        self._tell_room = tell

    async def close(self) -> None:
        """End every program; what it has answered by then counts, the rest is not admitted."""
        self._closed = True
        for asked in self._waiting:
            if not asked.end.done():
                asked.end.set_result(Again())
        self._waiting.clear()
        if self._later is not None:
            self._later.cancel()
        for life in self._lives.values():
            life.dismiss(CLOSE_GRACE)
        keepers = set(self._keepers)
        if keepers:
            _, stubborn = await asyncio.wait(keepers, timeout=STOP_GRACE)
            for keeper in stubborn:
                keeper.cancel()
            await asyncio.gather(*stubborn, return_exceptions=True)

    # --- a message ------------------------------------------------------------------------------

    async def _ask(self, asked: Asked) -> lines.Answer | lines.Unusable | Outcome:
        """Give a message to one program after the other, until one of them is the last."""
        while True:
            if self._closed:
                raise NotAdmitted(NODE_ENDS)
            if asked.stopped:
                return stopped(asked)
            if asked.alone:
                self._waiting.appendleft(asked)
            else:
                self._waiting.append(asked)
            self._dispatch()
            said = await asked.end
            if not isinstance(said, Again):
                return said
            asked.end = asyncio.get_running_loop().create_future()

    def _outcome(self, asked: Asked, said: lines.Answer | lines.Unusable) -> Outcome:
        """Return what an answer means, by the rules that files of a work directory have."""
        finished = time.time()
        if isinstance(said, lines.Unusable):
            return self._unusable(asked, f"answer: {said.why}", Cut())
        module, text = self._module, said.log.encode("utf-8", "replace")
        printed = cut_text(module, text, len(text)) if text else Cut()
        if said.exit:
            return Outcome(
                exit_code=said.exit,
                detail=said.detail[:SHOWN],
                started=asked.began,
                finished=finished,
                stdout=printed,
            )
        try:
            emissions = lines.emissions(said, self._place.modules)
        except BadOutput as error:
            return self._unusable(asked, str(error), printed)
        return Outcome(
            exit_code=0,
            detail=said.detail[:SHOWN],
            started=asked.began,
            finished=finished,
            emissions=emissions,
            stdout=printed,
            extras=lines.extras(said),
        )

    def _unusable(self, asked: Asked, detail: str, printed: Cut) -> Outcome:
        return Outcome(
            exit_code=UNUSABLE,
            cause=Cause.BAD_OUTPUT,
            detail=detail,
            started=asked.began,
            finished=time.time(),
            stdout=printed,
        )

    # --- who gets it ----------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give away what waits, in its order, and start programs if there are too few."""
        while self._waiting:
            life = self._choose(self._waiting[0])
            if life is None:
                break
            life.give(self._waiting.popleft())
        if not self._closed and len(self._lives) < self._module.slots:
            self._open_more()

    def _choose(self, asked: Asked) -> Life | None:
        """Return the program with the least to do; for a message that is to be alone, an idle one.

        While such a message waits nothing behind it is given away, so that one falls idle.
        """
        fit = [
            life
            for life in self._lives.values()
            if (life.idle if asked.alone else life.room > 0) and asked.id not in life.in_flight
        ]
        return min(fit, key=lambda life: (len(life.in_flight), life.seq), default=None)

    def _open_more(self) -> None:
        lives = self._lives.values()
        starting = sum(not life.capacity for life in lives)
        wanted = len(self._waiting) - starting
        if wanted <= 0:
            # Nothing waits; but where one program does several things at once, another may help.
            shared = any(len(life.in_flight) > 1 for life in lives)
            wanted = int(shared and not starting and not any(life.idle for life in lives))
        if wanted <= 0:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._opens_at:
            if self._later is None:
                self._later = loop.call_at(self._opens_at, self._open_later)
            return
        free = [seq for seq in range(self._module.slots) if seq not in self._lives]
        for seq in free[:wanted]:
            self._open(seq)

    def _open_later(self) -> None:
        self._later = None
        self._dispatch()

    def _open(self, seq: int) -> None:
        life = Life(self._module, self._place, seq, self._changed, hush=not self._says_ready)
        self._lives[seq] = life
        keeper = asyncio.create_task(self._keep(life))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    def _changed(self, life: Life) -> None:
        """See what a program can take now."""
        if life.capacity != self._in_flight or not life.answered:
            self._note_open(life)
        self._dispatch()

    def _note_open(self, life: Life) -> None:
        if life.says_ready:
            self._says_ready, self._unopened = True, 0
        if life.capacity not in (0, self._in_flight):
            self._in_flight = life.capacity
            if self._tell_room is not None:
                slots = self._module.slots
                self._tell_room(min(slots * life.capacity, max(slots, RESIDENT_IN_HAND)))
        if life.capacity and self._trial is not None and not self._trial.done():
            self._trial.set_result(None)

    # --- the end of a program -------------------------------------------------------------------

    async def _keep(self, life: Life) -> None:
        """Let a program live, and see to those that it leaves behind, whatever happens."""
        death: Death | None = None
        error: SbxError = RuntimeUnavailable(f"{life.name} was given up")
        try:
            death = await life.live()
        except (ImageMissing, SpecRejected, RuntimeUnavailable) as problem:
            error = problem
        except Exception as problem:  # a bug of ours must not leave anybody waiting
            log.exception("resident_stumbled", extra={"run": life.name})
            error = RuntimeUnavailable(repr(problem))
        finally:
            del self._lives[life.seq]
            if death is None:
                # When the node ends nobody learns whether it is still at work on what it has.
                self._cannot_start(error, *(() if self._closed else life.in_flight.values()))
            else:
                self._settle(life, death)
            self._dispatch()

    def _cannot_start(self, error: SbxError, *orphans: Asked) -> None:
        """Tell those who wait, unless there is another program that they can wait for."""
        self._opens_at = asyncio.get_running_loop().time() + PAUSES[-2]
        if self._trial is not None and not self._trial.done():
            self._trial.set_exception(error)
        told = list(orphans)
        if not self._lives:
            self._opens_at = 0.0  # whoever is told comes again in his own time
            told += self._waiting
            self._waiting.clear()
        for asked in told:
            if not asked.end.done():
                asked.end.set_exception(error)

    def _settle(self, life: Life, death: Death) -> None:
        """Decide what becomes of a program's messages, and when the next one is started."""
        spoke = life.says_ready or life.answered > 0
        if spoke:
            self._spoke, self._unopened = True, 0
        mute = not self._spoke and death.ending.why is Why.ITSELF
        at_start = mute or not life.capacity
        blameless = death.ending.why in (Why.RETIRED, Why.STOPPED) or death.exit.lost
        if death.exit.not_started or (at_start and not blameless):
            return self._settle_start(life, death)
        blamed = False
        for asked in life.in_flight.values():
            end = fate(self._module, death, asked)
            blamed = blamed or isinstance(end, Outcome)
            self._settle_message(asked, end, death)
        # A message that ends one program after the other is no reason to let others wait.
        fruitful = life.answered > 0 or blamed or blameless
        self._pause(0 if fruitful else self._fruitless + 1)
        return None

    def _settle_start(self, life: Life, death: Death) -> None:
        """After a program that did not get going: again, or give up and say why."""
        self._unopened += 1
        self._pause(self._fruitless + 1)
        outcome = not_started(death)
        tried = self._trial is not None and not self._trial.done()
        if self._trial is not None and tried:
            self._trial.set_exception(SpecRejected(outcome.detail))
        end: Said = Again()
        left = list(life.in_flight.values())
        hopeless = death.exit.not_started or death.exit.code in CANNOT_EXECUTE
        given_up = hopeless or tried or self._unopened > self._module.keep.restarts
        if given_up and not self._lives:  # if others of its kind live, they can wait for those
            end, self._opens_at = outcome, 0.0
            left += self._waiting
            self._waiting.clear()
        for asked in left:
            if not asked.end.done():
                asked.end.set_result(end)

    def _settle_message(self, asked: Asked, end: Outcome | Again, death: Death) -> None:
        if asked.end.done():
            return
        if isinstance(end, Again):
            asked.repeats += 1
            asked.quiet += end.quiet
            asked.alone = asked.alone or end.alone or asked.repeats > 1
            if asked.repeats > RESIDENT_REPEATS and not self._closed:
                end = lost(asked, f"its programs ended {asked.repeats} times: {death.ending.why}")
        elif end.cause is not Cause.LOST and not asked.stopped:
            self._killers[asked.task.key] = None
            if len(self._killers) > KILLERS:
                del self._killers[next(iter(self._killers))]
        asked.end.set_result(end)

    def _pause(self, fruitless: int) -> None:
        self._fruitless = fruitless
        pause = PAUSES[min(fruitless, len(PAUSES) - 1)]
        self._opens_at = asyncio.get_running_loop().time() + pause
