"""One life of a resident program: its container, its pipes, and the messages that it has.

The program is given lines and gives lines back (contract/resident.py). It is ended when a message's
time is up, when it does not keep its promises, or when it has lived long enough; what that means
for the messages that it still has is decided in resident_fate.py.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable

from scalebox_actors.contract import resident as lines
from scalebox_actors.errors import NotPermitted, RuntimeUnavailable, SbxError, SpecRejected
from scalebox_actors.launch.environment import lasting_environment
from scalebox_actors.launch.pipes import PipeClosed, Pipes
from scalebox_actors.launch.resident_clock import Clock
from scalebox_actors.launch.resident_fate import (
    NEVER,
    SHELL,
    SHOWN,
    Asked,
    Death,
    Ending,
    Why,
)
from scalebox_actors.launch.resident_folder import ResidentFolder
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.limits import (
    RESIDENT_BODY_BYTES,
    RESIDENT_FAULTS,
    RESIDENT_HUSH,
    RESIDENT_LINE_BYTES,
    STOP_GRACE,
)
from scalebox_actors.names import lasting_name
from scalebox_actors.ports import Exit, Logs, Run
from scalebox_actors.spec import ContainerSpec, Frame, container_spec
from scalebox_actors.topology.model import Module

ROLE = "resident"
SOON = 0.001

log = logging.getLogger(__name__)


class Life:
    """A program from its start to its end; `changed` is called when it may take more, or less."""

    def __init__(
        self,
        module: Module,
        place: Workplace,
        seq: int,
        changed: Callable[["Life"], None],
        *,
        hush: bool,
    ) -> None:
        self.seq = seq
        self.in_flight: dict[str, Asked] = {}
        self.capacity = 0
        """How many messages it may have at once; 0 until it is ready."""
        self.says_ready = False
        self.answered = 0
        self.closing = False
        """It takes no more messages."""
        surroundings = place.surroundings
        token = secrets.token_hex(5)
        self.name = lasting_name(surroundings.topology, module.name, ROLE, seq, token)
        self.folder = ResidentFolder(place.base, self.name, surroundings.node)
        self._inside = place.runtime.work_path or str(self.folder.work)
        self._module, self._place, self._changed = module, place, changed
        self._loop = asyncio.get_running_loop()
        self._pipes: Pipes | None = None
        self._clock = Clock(module, self._loop.time())
        self._wish: asyncio.Future[Ending] = self._loop.create_future()
        self._hush = hush
        self._given = self._faults = self._pings = 0
        self._unknown: set[str] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._grace = STOP_GRACE
        self._alone = False
        """The one message that it has is to be alone."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @property
    def room(self) -> int:
        """How many more messages it takes now."""
        if self.closing or self._alone:
            return 0
        return self.capacity - len(self.in_flight)

    @property
    def state(self) -> str:
        """How it is, in one of Scalebox's words for slots."""
        return "ENDING" if self.closing else "ON" if self.capacity else "STARTING"

    @property
    def idle(self) -> bool:
        """Whether it is ready and has nothing to do."""
        return self.capacity > 0 and not self.closing and not self.in_flight

    def give(self, asked: Asked) -> None:
        """Give it a message, for which it has room."""
        self.in_flight[asked.id] = asked
        self._alone = asked.alone
        asked.given = asked.heard = NEVER
        asked.began = time.time()
        asked.faults, asked.errand = 0, ""
        self._given += 1
        if self._given == self._module.keep.runs:
            self.closing = True
        message = asked.task.message
        if asked.task.members or len(message.body) > RESIDENT_BODY_BYTES:
            errand = asyncio.create_task(self._send(asked))
            self._errands.add(errand)
            errand.add_done_callback(self._errands.discard)
        else:
            self._hand_over(asked, message.body)

    async def _send(self, asked: Asked) -> None:
        """Put a message's files where the program finds them, then give it the message."""
        body = asked.task.message.body
        try:
            errand = await asyncio.to_thread(self.folder.send, asked.task)
        except OSError as error:  # the host's disk is full or broken; the task is not to blame
            reason = f"{self.folder.work}: {error.strerror}"
            if self.in_flight.pop(asked.id, None) is asked and not asked.end.done():
                asked.end.set_exception(RuntimeUnavailable(reason))
            self._alone = False
            self._rest()
            return
        if self.in_flight.get(asked.id) is asked and not self._wish.done():
            asked.errand = errand
            self._hand_over(asked, body if len(body) <= RESIDENT_BODY_BYTES else None)

    def _hand_over(self, asked: Asked, body: bytes | None) -> None:
        message = asked.task.message
        work = f"{self._inside}/{asked.errand}" if asked.errand else ""
        line = lines.message_line(
            message.id, asked.task.attempt, body, message.contract_headers, work
        )
        asked.given = asked.heard = self._loop.time()
        self._clock.busy(asked.given)
        self._post(line)
        self._arm(asked.given + self._clock.patience)

    def end(self, ending: Ending) -> None:
        """Have it ended; the first reason counts."""
        self.closing = True
        if self._wish.done():
            return
        self._wish.set_result(ending)
        if ending.why not in (Why.RETIRED, Why.STOPPED):
            more = {"sbx_module": self._module.name, "run": self.name, "why": str(ending.why)}
            log.warning("resident_ended", extra=more | {"detail": ending.detail})

    def dismiss(self, grace: float) -> None:
        """Have it ended because the node ends, whatever it is doing."""
        self._grace = grace
        self.end(Ending(Why.RETIRED))

    async def live(self) -> Death:
        """Start it, let it work, and return how it ended; raises what a start raises.

        Killed at any line, container and folder are left; the next life of the node removes them.
        """
        try:
            self._pipes = await self._open_door()
            run = await self._begin()
            self._pipes.listen(self._hear)
            self._started()
            ended = asyncio.create_task(run.wait())
            both: list[asyncio.Future[Exit] | asyncio.Future[Ending]] = [ended, self._wish]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            return await self._bury(run, ended, self._pipes)
        finally:
            self._let_go()
            await self._clean()

    # --- start and end --------------------------------------------------------------------------

    async def _open_door(self) -> Pipes:
        try:
            await asyncio.to_thread(self.folder.make)
            return self.folder.pipes()
        except OSError as error:  # the host's disk is full or broken
            raise RuntimeUnavailable(f"{self.folder.parent}: {error.strerror}") from error

    async def _begin(self) -> Run:
        try:
            return await self._place.runtime.adopt_or_start(self._spec())
        except NotPermitted as error:  # a mount that is not there, or leaves its root on this host
            raise SpecRejected(str(error)) from error

    def _spec(self) -> ContainerSpec:
        place, door = self._place, self._place.door(self.folder.door)
        share = place.share_of(self.seq)
        frame = Frame(
            name=self.name,
            home=place.home(share),
            task_id="",
            attempt=1,
            command=self._module.command,
            wrapper=(SHELL, f"{door.target}/{self.folder.gate}"),
            env=lasting_environment(self._module, self.seq, place.surroundings, self._inside)
            | place.variables(share),
            work=str(self.folder.work),
            role=ROLE,
            doors=(door,),
        )
        return container_spec(self._module, frame, place.ceiling)

    async def _bury(self, run: Run, ended: "asyncio.Task[Exit]", pipes: Pipes) -> Death:
        """End it if it still lives, hear its last words, and say how it ended."""
        self.closing = True
        ending = self._wish.result() if self._wish.done() else Ending()
        if ending.why is Why.RETIRED:
            pipes.hang_up()  # it reads the end of its input
            await asyncio.wait({ended}, timeout=self._grace)
        if not ended.done() and ending.why is not Why.ITSELF:
            await run.stop(self._grace)
        exit_ = await ended
        pipes.drain()
        try:
            logs = await run.logs(self._module.output_text_size)
        except SbxError:
            logs = Logs()
        together = sum(asked.given < NEVER for asked in self.in_flight.values())
        return Death(exit_, logs, ending, together)

    def _started(self) -> None:
        """Wait for its first word; who is not known to say one is left in peace for a moment."""
        self._clock.open(self._loop.time())
        if self._hush:
            self._loop.call_later(RESIDENT_HUSH, self._open, lines.Ready())
        self._look()

    def _let_go(self) -> None:
        self.closing = True
        self._wish.cancel()  # nothing is to be ended any more
        if self._timer is not None:
            self._timer.cancel()
        if self._pipes is not None:
            self._pipes.close()

    async def _clean(self) -> None:
        """Remove container and folder; what an engine that is down keeps is left to the reaper."""
        with contextlib.suppress(SbxError):
            await self._place.runtime.remove(self.name)
            await asyncio.to_thread(self.folder.remove)

    # --- what it says ---------------------------------------------------------------------------

    def _hear(self, line: bytes | None) -> None:
        self._clock.heard(self._loop.time())
        if line is None:
            # An answer is lost, so somebody would wait in vain.
            self._blame(RESIDENT_FAULTS)
            self.end(Ending(Why.FAULTS, f"a line of more than {RESIDENT_LINE_BYTES} bytes"))
            return
        said = lines.read_line(line, self._note_unknown)
        match said:
            case lines.Answer():
                self._take(str(said.id), said, line)
            case lines.Unusable() if said.id is not None:
                self._take(said.id, said, line)
            case lines.Ready() if self.says_ready:
                self._fault("ready a second time", line)
            case lines.Ready():
                self.says_ready = True
                self.capacity = 0  # it may have been taken for ready before
                self._open(said)
            case lines.Beat():
                self._beat(said.id, line)
            case lines.Unusable():
                self._fault(said.why, line)

    def _take(self, message_id: str, said: lines.Answer | lines.Unusable, line: bytes) -> None:
        """Hand an answer to whoever waits for it."""
        asked = self.in_flight.pop(message_id, None)
        if asked is None:
            self._fault("an answer that nobody waits for", line)
            return
        self.answered += 1
        self._alone = False
        if not asked.end.done():
            asked.end.set_result(said)
        if asked.errand:
            self._loop.run_in_executor(None, self.folder.fetch, asked.errand)
            asked.errand = ""
        self._rest()

    def _rest(self) -> None:
        """End if that was the last message, else take more."""
        if not self.in_flight:
            now = self._loop.time()
            self._clock.busy(now)
            if self.closing:
                self.end(Ending(Why.RETIRED))
            else:
                self._arm(now + self._clock.leisure)
        self._changed(self)

    def _open(self, ready: lines.Ready) -> None:
        """Take messages from now on."""
        if self.capacity or self.closing:
            return
        self.capacity, self._clock.heartbeat = ready.in_flight, ready.heartbeat
        self._clock.open(self._loop.time())
        more = {"sbx_module": self._module.name, "run": self.name, "in_flight": ready.in_flight}
        log.info("resident_ready", extra=more | ({"says": ready.name} if ready.name else {}))
        self._look()
        self._changed(self)

    def _beat(self, message_id: str, line: bytes) -> None:
        asked = self.in_flight.get(message_id)
        if asked is None:
            self._fault("a beat of a message that it has not", line)
        else:
            asked.heard = self._loop.time()

    def _fault(self, why: str, line: bytes) -> None:
        """Note a line that means nothing; a program that goes on like that is ended."""
        self._faults += 1
        self._blame(1)
        shown = line[:SHOWN].decode("utf-8", "backslashreplace").encode("unicode_escape").decode()
        more = {"sbx_module": self._module.name, "run": self.name, "why": why}
        if not self.closing or self._faults <= RESIDENT_FAULTS:
            log.warning("resident_line", extra=more | {"line": shown})
        if self._faults >= RESIDENT_FAULTS:
            detail = f"{self._faults} lines that mean nothing, the last one: {why}"
            self.end(Ending(Why.FAULTS, detail))

    def _blame(self, faults: int) -> None:
        for asked in self.in_flight.values():
            asked.faults += faults

    def _note_unknown(self, key: str) -> None:
        if key not in self._unknown and len(self._unknown) < RESIDENT_FAULTS:
            self._unknown.add(key)
            more = {"sbx_module": self._module.name, "run": self.name, "key": ascii(key[:80])}
            log.warning("resident_key", extra=more)

    # --- its time -------------------------------------------------------------------------------

    def _arm(self, due: float) -> None:
        """Look again at `due`, unless that happens earlier anyhow."""
        if self._timer is not None and self._due <= due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """See whether somebody's time is up, and when to look again."""
        self._timer = None
        if self._wish.done():
            return
        now = self._loop.time()
        if not self.capacity:
            due = self._clock.at_start(now)
        elif self.in_flight:
            self.closing = self.closing or self._clock.old(now)
            due = self._clock.at_work(now, self.in_flight.values())
        else:
            due = self._clock.at_rest(now)
        if isinstance(due, Ending):
            self.end(due)
        else:
            self._ping(now)
            self._arm(max(due, now + SOON))

    def _ping(self, now: float) -> None:
        """Ask a program at rest for a sign of life, if it promised some."""
        if self.capacity and not self.in_flight and self._clock.wants_ping(now):
            self._pings += 1
            self._clock.pinged(now)
            self._post(lines.ping_line(self._pings))

    def _post(self, line: bytes) -> None:
        if self._pipes is not None:
            with contextlib.suppress(PipeClosed):  # it has just ended, and is settled with it
                self._pipes.post(line)
