"""The actor: takes a module's messages, runs its program for each, settles what happened.

`Actor.handle` is the path of one message, DESIGN in one screen: whatever dies at whatever line,
the next delivery finds the exited container or the done-record and carries on.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping

import msgspec

from scalebox_actors import gather
from scalebox_actors.committer import Committer
from scalebox_actors.effects import Effects, Scribe
from scalebox_actors.errors import (
    BadMessage,
    BadOutput,
    ImageMissing,
    NotAdmitted,
    RuntimeUnavailable,
    SbxError,
    SpecRejected,
    Transient,
)
from scalebox_actors.hands import Hands
from scalebox_actors.insight import run_record, verdict_word
from scalebox_actors.journal import Counts, Journal
from scalebox_actors.ledger import Ledger, placed
from scalebox_actors.limits import DONE_RECORD_LIFE, GROUP_MEMBERS
from scalebox_actors.message import Message, read
from scalebox_actors.names import attempts_key, run_name
from scalebox_actors.policy import Bury, Done, Reason, TryAgain, Verdict, describe, judge, poisoned
from scalebox_actors.ports import Broker, Delivery, Launcher, Settled, Stored, Task
from scalebox_actors.records import ORPHAN, UNUSABLE, Attempts, Cause, DoneRecord, Ended, Outcome
from scalebox_actors.topology.model import Module

AGAIN_LATER = 30.0
"""Seconds before a message is offered again that this node could not even start."""
ENGINE_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)

log = logging.getLogger(__name__)
_decode_attempts = msgspec.json.Decoder(Attempts).decode
_decode_record = msgspec.json.Decoder(DoneRecord).decode
_encode = msgspec.json.Encoder().encode


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """What the actors of a node share."""

    broker: Broker
    committer: Committer
    scribe: Scribe
    journal: Journal
    ledger: Ledger


class Actor:
    """Runs one module on one node."""

    def __init__(self, module: Module, launcher: Launcher, desk: Desk) -> None:
        self.module = module
        self.suspended = ""
        """Why nothing can be started here for now; empty while all is well."""
        self._launcher = launcher
        self._broker = desk.broker
        self._committer = desk.committer
        self._scribe = desk.scribe
        self._journal = desk.journal
        self._ledger = desk.ledger
        self._counts: Counts = desk.journal.of(module.name)
        self._hands = Hands(module.slots, self._work)
        launcher.watch_room(self._hands.resize)
        self._slots = list(range(module.slots - 1, -1, -1))
        self._seats: dict[str, int] = {}
        self._tasks: dict[str, Task] = {}
        self._settling: set[str] = set()
        self._killing = False
        self._resuming: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Take deliveries into the module's slots until cancelled."""
        async with self._broker.intake(self.module.name) as intake:
            self._hands.open(intake)
            async for delivery in intake:
                self._hands.take(delivery)

    async def handle(self, delivery: Delivery) -> None:
        """Take one delivery to its end; safe to be killed at any await (docs/failure.md)."""
        try:
            message = self._read(delivery)
            record = await self._record(delivery, message)
            if record is not None:  # a twin, or died between commit and ack
                return await self._leave(delivery, message, record)
            if self.module.gather is not None and not message.joined:
                return await self._join(delivery, message)
            attempts = await self._attempts(delivery, message)
            task = await self._task(message, attempts)
        except BadMessage as error:  # nobody will ever be able to run it
            return await self._bury_unread(delivery, Bury(Reason.BAD_MESSAGE, str(error)))
        before = attempts
        if delivery.redelivered and not await self._launcher.underway(task):
            if poisoned(attempts):
                return await self._settle(delivery, task, attempts, _POISON)
            # Written before the start, so that starts are counted on whichever host they happen.
            attempts = attempts.with_start()
            await self._remember(message, attempts)
        try:
            outcome = await self._launch(task)
        except (ImageMissing, SpecRejected) as error:  # the host's fault, never the task's
            return await self._suspend(delivery, task, before, str(error))
        except NotAdmitted:
            return await self._decline(delivery, task, before, 0.0)
        if outcome.cause is Cause.NOT_STARTED:
            return await self._suspend(delivery, task, before, outcome.detail)
        if not outcome.removed:  # files to be removed must not be those of the slot's next run
            self._vacate(delivery)
        if self._killing and outcome.exit_code != 0:  # a person ended it: no verdict on the task
            await self._launcher.clear(task)
            return await delivery.give_back(0.0)
        return await self._settle(delivery, task, attempts, outcome)

    async def drain(self) -> None:
        """Take nothing more and wait until nothing is in hand."""
        self.hold()
        await self._hands.empty()

    def hold(self) -> None:
        """Take nothing more; what is in hand goes on, but for what waits to be let in."""
        self._hands.close()
        self._launcher.hold()

    async def stop_runs(self) -> None:
        """Kill every run in hand and give their messages back, as if they had not been taken."""
        self._killing = True
        self.hold()
        await asyncio.gather(*(self._launcher.stop(task) for task in list(self._tasks.values())))
        await self.drain()

    async def cancel(self, message_id: str) -> bool:
        """Kill the run of one task, whose record says `cancelled` already."""
        task = self._tasks.get(message_id)
        if task is not None:
            await self._launcher.stop(task)
        return task is not None

    async def abandon(self) -> None:
        """Let go of all that runs, for the next node to adopt; what has ended is settled first."""
        if self._resuming is not None:
            self._resuming.cancel()
        await self._hands.abandon(self._settling.__contains__)

    async def close(self) -> None:
        """End the containers that outlive a message, once nothing is in hand."""
        await self._launcher.close()

    @property
    def states(self) -> Mapping[str, int]:
        """How many of the containers that stay are in which state."""
        return self._launcher.states

    def holds(self, name: str) -> bool:
        """Whether the run of that name belongs to a task in hand, or is a container that stays."""
        topology = self._broker.names.topology
        return self._launcher.holds(name) or any(
            run_name(topology, *task.key) == name for task in self._tasks.values()
        )

    def suspend(self, reason: str) -> None:
        """Take nothing more because of the host, until `resume`; what is in hand goes on."""
        log.error("module_suspended", extra={"sbx_module": self.module.name, "why": reason})
        self.suspended = reason
        self._hands.suspend()

    def resume(self) -> None:
        """Take deliveries again into the slots that are free."""
        log.info("module_resumed", extra={"sbx_module": self.module.name})
        self.suspended = ""
        self._hands.resume()

    async def _work(self, delivery: Delivery) -> None:
        """Handle a delivery, whatever goes wrong."""
        self._counts.running += 1
        try:
            await self.handle(delivery)
        except Transient as error:  # a newer version, or the link was closed for good
            log.warning("task_postponed", extra={"task": delivery.message_id, "why": str(error)})
            await self._hand_back(delivery)
        except Exception:
            # A bug of ours must not lose the message nor spin: it comes again, and we said so.
            log.exception("task_stumbled", extra={"task": delivery.message_id})
            await self._hand_back(delivery)
        finally:
            self._counts.running -= 1
            self._settling.discard(delivery.message_id)
            self._tasks.pop(delivery.message_id, None)
            self._stand_up(delivery)

    def _vacate(self, delivery: Delivery) -> None:
        """Let the next run begin: what is left to do for this one needs no slot."""
        self._stand_up(delivery)
        self._hands.vacate()

    def _stand_up(self, delivery: Delivery) -> None:
        seat = self._seats.pop(delivery.message_id, None)
        if seat is not None:
            self._slots.append(seat)

    async def _hand_back(self, delivery: Delivery) -> None:
        with contextlib.suppress(SbxError):
            await delivery.give_back(AGAIN_LATER)

    # --- before the run -------------------------------------------------------------------------

    def _read(self, delivery: Delivery) -> Message:
        hops, most = self._scribe.topology.hops, self._broker.body_limit
        task_id = delivery.message_id
        return read(delivery.raw, self.module.name, task_id, hops=hops, body_limit=most)

    async def _record(self, delivery: Delivery, message: Message) -> Stored | None:
        """Ask for the done-record where that can spare a run; the commit fences in any case."""
        if not (delivery.redelivered or self._launcher.costly):
            return None
        return await self._broker.read(self._broker.names.done(message.module, message.id))

    async def _attempts(self, delivery: Delivery, message: Message) -> Attempts:
        if not delivery.redelivered:
            return Attempts()
        stored = await self._broker.get_state(attempts_key(message.module, message.id))
        return _decode_attempts(stored) if stored else Attempts()

    async def _remember(self, message: Message, attempts: Attempts) -> None:
        key = attempts_key(message.module, message.id)
        await self._broker.put_state(key, _encode(attempts), life=DONE_RECORD_LIFE)

    async def _task(self, message: Message, attempts: Attempts) -> Task:
        """Return the task to run; for a joined message, with its members and their bodies."""
        members = await self._members(message) if message.joined else ()
        if members:
            body = gather.joined_body(gather.key_of(message), members)
            message = msgspec.structs.replace(message, body=body)
        slot = self._seats[message.id] = self._slots.pop() if self._slots else self.module.slots
        task = Task(message=message, attempt=attempts.number, members=members, slot=slot)
        self._tasks[message.id] = task
        return task

    async def _members(self, message: Message) -> tuple[Message, ...]:
        pattern = self._broker.names.member(message.module, message.joined, "*")
        stored = await self._broker.read_all(pattern, most=GROUP_MEMBERS)
        if not stored:
            raise BadMessage(f"the group {message.joined} has no members")
        return tuple(gather.member_of(entry, message.module) for entry in stored)

    async def _launch(self, task: Task) -> Outcome:
        """Run the task; while the engine does not answer, keep it in hand and try again."""
        tries = 0
        while True:
            try:
                return await self._launcher.run(task)
            except RuntimeUnavailable as error:
                pause = ENGINE_PAUSES[min(tries, len(ENGINE_PAUSES) - 1)]
                tries += 1
                log.warning("engine_unavailable", extra={"why": str(error), "pause": pause})
                await asyncio.sleep(pause)

    # --- after the run --------------------------------------------------------------------------

    async def _settle(
        self, delivery: Delivery, task: Task, attempts: Attempts, outcome: Outcome
    ) -> None:
        """Judge a run and carry the verdict out: commit, try again, or bury."""
        self._settling.add(delivery.message_id)
        message = task.message
        if task.members:  # what is stored of a joined message is what came, not what was run
            message = msgspec.structs.replace(message, body=delivery.raw.body)
        verdict, effects, outcome = self._judge(message, attempts, outcome)
        if isinstance(verdict, TryAgain):
            await self._try_again(delivery, task, attempts, outcome, verdict)
            return
        settlement = await self._committer.commit(placed(effects, delivery))
        if settlement.kind is Settled.UNACCEPTABLE:
            verdict = Bury(Reason.REFUSED, settlement.text)
            letter = self._scribe.dead(message, verdict, outcome)
            await self._inter(placed(letter, delivery))
        # Killed here, the task is committed but not acked: it comes again, finds its record and
        # is acked without a run. Acking first would lose the outputs, or leave members behind.
        if isinstance(verdict, Done):
            await self._forget_members(message)
        await self._end(delivery, committed=settlement.kind is Settled.COMMITTED)
        self._note(delivery, task, outcome, verdict_word(verdict, settlement))
        await self._launcher.clear(task, outcome)

    async def _forget_members(self, message: Message) -> None:
        """Remove the members of a group whose joined task needs them no more; safe to repeat."""
        if message.joined:
            pattern = self._broker.names.member(message.module, message.joined, "*")
            await self._broker.purge(pattern)

    def _judge(
        self, message: Message, attempts: Attempts, outcome: Outcome
    ) -> tuple[Verdict, Effects, Outcome]:
        """Return the verdict, what it stores, and the outcome that it is about."""
        verdict: Verdict
        if outcome is _POISON:
            verdict = Bury(Reason.POISON, outcome.detail)
        else:
            verdict = judge(self.module.retry, outcome, attempts, random.random())  # noqa: S311
        if isinstance(verdict, Done):
            try:
                return verdict, self._scribe.done(message, outcome), outcome
            except BadOutput as error:
                outcome = msgspec.structs.replace(
                    outcome, exit_code=UNUSABLE, cause=Cause.BAD_OUTPUT, detail=str(error)
                )
                verdict = judge(self.module.retry, outcome, attempts)
        bury = verdict if isinstance(verdict, Bury) else Bury(Reason.EXHAUSTED)
        return verdict, self._scribe.dead(message, bury, outcome), outcome

    async def _try_again(
        self, delivery: Delivery, task: Task, attempts: Attempts, outcome: Outcome, again: TryAgain
    ) -> None:
        # Written before the message is given back: whoever gets it next knows of this failure.
        # Killed between the two, the failed container is judged once more and counted twice,
        # which costs one retry and loses nothing.
        if again.counted:
            await self._remember(task.message, attempts.with_failure(outcome))
        self._note(delivery, task, outcome, verdict_word(again, None))
        await self._launcher.clear(task)
        await delivery.give_back(again.delay)

    async def _leave(self, delivery: Delivery, message: Message, record: Stored) -> None:
        """Ack a task that has ended before, and remove what may be left of it."""
        self._counts.repeated += 1
        if message.joined and _decode_record(record.body).ended is not Ended.DEAD:
            await self._forget_members(message)  # a dead one's are kept, for a retry of its letter
        await self._end(delivery, committed=False)
        await self._launcher.clear(Task(message=message))

    async def _join(self, delivery: Delivery, message: Message) -> None:
        """Consume a member: it is counted in its group, which may thereby be complete."""
        self._settling.add(delivery.message_id)
        self._hands.vacate()
        effects = self._scribe.member(message)
        settlement = await self._committer.commit(placed(effects, delivery))
        if settlement.kind in (Settled.LATE, Settled.UNACCEPTABLE):
            reason = Reason.LATE if settlement.kind is Settled.LATE else Reason.REFUSED
            verdict = Bury(reason, settlement.text)
            await self._bury(delivery, self._scribe.dead(message, verdict), verdict)
        await self._end(delivery, committed=settlement.kind is Settled.COMMITTED)

    async def _bury_unread(self, delivery: Delivery, verdict: Bury) -> None:
        module, raw = self.module.name, delivery.raw
        letter = self._scribe.unread(raw, module, delivery.message_id, verdict)
        await self._bury(delivery, letter, verdict)
        await self._end(delivery, committed=False)

    async def _end(self, delivery: Delivery, *, committed: bool) -> None:
        """Ack a task whose end is stored."""
        await self._ledger.receive(delivery, self.module.name, committed=committed)

    async def _bury(self, delivery: Delivery, letter: Effects, verdict: Bury) -> None:
        """Set aside a message that was never run, and say so."""
        await self._inter(placed(letter, delivery))
        self._counts.dead += 1
        self._tell_dead(delivery.message_id, verdict.text)

    async def _inter(self, effects: Effects) -> None:
        """Store a dead letter; one that the broker refuses is set aside, never dropped."""
        settlement = await self._committer.commit(effects)
        if settlement.kind is Settled.UNACCEPTABLE:
            raise Transient(f"cannot be buried: {settlement.text}")

    def _tell_dead(self, task_id: str, why: str) -> None:
        what = {"sbx_module": self.module.name, "task": task_id}
        log.warning("task_dead", extra={**what, "why": why})

    async def _suspend(self, delivery: Delivery, task: Task, before: Attempts, reason: str) -> None:
        """Take nothing more until the module can be started here; the task is not to blame."""
        if not self.suspended:
            self.suspend(reason)
            self._resuming = asyncio.create_task(self._resume())
        await self._decline(delivery, task, before, AGAIN_LATER)

    async def _decline(
        self, delivery: Delivery, task: Task, before: Attempts, delay: float
    ) -> None:
        """Give a message back for which nothing was started."""
        await self._launcher.clear(task)
        if delivery.redelivered:
            # Nothing was started, so the start that was written down is taken back: however
            # often a task comes to a host that cannot start it, it is not buried for that.
            await self._remember(task.message, before)
        await delivery.give_back(delay)

    async def _resume(self) -> None:
        """Wait until the module can be started here, then take deliveries again."""
        while True:
            await asyncio.sleep(AGAIN_LATER / 6)
            try:
                await self._launcher.ready()
            except SbxError as error:
                self.suspended = str(error)
            else:
                return self.resume()

    def _note(self, delivery: Delivery, task: Task, outcome: Outcome, word: str) -> None:
        """Count a run and keep its record."""
        self._counts.count(word, outcome.finished - outcome.started)
        if word == "dead":
            self._tell_dead(task.message.id, describe(outcome))
        self._journal.add(run_record(delivery, task, outcome, word))


_POISON = Outcome(
    exit_code=ORPHAN, cause=Cause.LOST, detail="started again and again without an end"
)
