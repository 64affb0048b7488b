"""How runs are settled: judged by the module's rules, then committed, tried again or buried.

Everything here may be repeated: killed at whatever line, the message comes again, and its
done-record or its container tells how far it had come.
"""

import logging
import random

import msgspec

from scalebox_actors.batches import Group, Seats
from scalebox_actors.committer import Committer
from scalebox_actors.effects import Effects, Scribe
from scalebox_actors.errors import BadOutput, Transient
from scalebox_actors.groups import forget
from scalebox_actors.insight import run_record, verdict_word
from scalebox_actors.journal import Journal
from scalebox_actors.ledger import Ledger, placed
from scalebox_actors.limits import DONE_RECORD_LIFE
from scalebox_actors.message import Message
from scalebox_actors.names import attempts_key
from scalebox_actors.policy import Bury, Done, Reason, TryAgain, Verdict, describe, judge
from scalebox_actors.pool import Pool
from scalebox_actors.ports import (
    Broker,
    Delivery,
    Launcher,
    Stored,
    Task,
)
from scalebox_actors.records import (
    POISON,
    Attempts,
    DoneRecord,
    Ended,
    Outcome,
    Settled,
    Settlement,
    spoilt,
)
from scalebox_actors.topology.model import Module

log = logging.getLogger(__name__)
_decode_record = msgspec.json.Decoder(DoneRecord).decode
_encode = msgspec.json.Encoder().encode


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """What the actors of a node share."""

    broker: Broker
    committer: Committer
    scribe: Scribe
    journal: Journal
    ledger: Ledger
    pool: Pool


class Settler:
    """Settles the tasks of one module on one node."""

    def __init__(self, module: Module, launcher: Launcher, desk: Desk, seats: Seats) -> None:
        self.module = module
        self.settling: set[str] = set()
        """The messages whose runs have ended."""
        self._launcher = launcher
        self._broker, self._committer, self._scribe = desk.broker, desk.committer, desk.scribe
        self._journal, self._ledger = desk.journal, desk.ledger
        self._counts = desk.journal.of(module.name)
        self._seats = seats

    async def settle(
        self, delivery: Delivery, task: Task, attempts: Attempts, outcome: Outcome
    ) -> None:
        """Judge a run and carry the verdict out: commit, try again, or bury."""
        self.settling.add(delivery.message_id)
        message = task.message
        if message.joined:  # what is stored of a joined message is what came, not what was run
            message = msgspec.structs.replace(message, body=delivery.raw.body)
        verdict, effects, outcome = self._judge(message, attempts, outcome)
        if isinstance(verdict, TryAgain):
            await self._try_again(delivery, task, attempts, outcome, verdict)
            return
        settlement = await self._commit(delivery, effects, outcome, verdict)
        if settlement is None:
            await self.decline(delivery, task, attempts, 0.0)
            return
        if settlement.kind is Settled.UNACCEPTABLE:
            verdict = Bury(Reason.REFUSED, settlement.text)
            letter = self._scribe.dead(message, verdict, outcome)
            await self._committer.bury(placed(letter, delivery))
        # Killed here, the task is committed but not acked: it comes again, finds its record and
        # is acked without a run. Acking first would lose the outputs, or leave members behind.
        ended = Ended.DONE if isinstance(verdict, Done) else Ended.DEAD
        if message.joined and settlement.kind is Settled.ALREADY:  # it may have ended otherwise
            ended = await self._ended(effects.record.subject) or ended
        if ended is not Ended.DEAD:
            await self._forget_group(delivery, message)
        await self._end(delivery, committed=settlement.kind is Settled.COMMITTED)
        self._note(delivery, task, outcome, verdict_word(verdict, settlement))
        await self._launcher.clear(task, outcome)

    async def _commit(
        self, delivery: Delivery, effects: Effects, outcome: Outcome, verdict: Verdict
    ) -> Settlement | None:
        """Store how a task ended; None if that cannot be, and the task has not ended.

        Tasks that ran as one are stored in one write: killed at any moment, all of them have
        ended with their outputs, or none has. If one of them had ended before, the run is void.
        """
        batch = self._seats.batch(delivery.message_id)
        group = batch.group(delivery.message_id) if batch is not None else None
        if group is None or not isinstance(verdict, Done):
            return await self._committer.commit(placed(effects, delivery))
        whole = placed(effects, delivery)
        if group.leads(delivery.message_id):
            whole = self._together(whole, group, outcome)
        settlement = await group.settle(delivery.message_id, lambda: self._committer.commit(whole))
        void = settlement.kind is Settled.ALREADY
        if void and await self._broker.read(effects.record.subject) is None:
            return None
        return settlement

    def _together(self, effects: Effects, group: Group, outcome: Outcome) -> Effects:
        """Return the effects of tasks that ran as one: the leader's, and the others' records."""
        bare = msgspec.structs.replace(outcome, emissions=())
        ends = (
            placed(self._scribe.done(one.task.message, bare), one.delivery)
            for one in group.seated[1:]
        )
        return msgspec.structs.replace(effects, others=tuple(end.record for end in ends))

    async def _ended(self, record: str) -> Ended | None:
        """Return how a task has ended, by its record."""
        stored = await self._broker.read(record)
        return _decode_record(stored.body).ended if stored is not None else None

    async def _forget_group(self, delivery: Delivery, message: Message) -> None:
        """Remove a group that its joined task needs no more; safe to repeat."""
        if not message.joined:
            return
        remember = self._scribe.topology.remember
        gone = await forget(self._broker, message.module, message.joined, remember=remember)
        if not gone and not delivery.redelivered:
            # Most likely a replica lags behind, and later it will not.
            raise Transient(f"group {message.joined} does not seem to be let go")

    def _judge(
        self, message: Message, attempts: Attempts, outcome: Outcome
    ) -> tuple[Verdict, Effects, Outcome]:
        """Return the verdict, what it stores, and the outcome that it is about."""
        verdict: Verdict
        if outcome is POISON:
            verdict = Bury(Reason.POISON, outcome.detail)
        else:
            verdict = judge(self.module.retry, outcome, attempts, random.random())  # noqa: S311
        if isinstance(verdict, Done):
            try:
                return verdict, self._scribe.done(message, outcome), outcome
            except BadOutput as error:
                outcome = spoilt(outcome, error)
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
            await self.remember(task.message, attempts.with_failure(outcome))
        self._note(delivery, task, outcome, verdict_word(again, None))
        await self._launcher.clear(task)
        await delivery.give_back(again.delay)

    async def leave(self, delivery: Delivery, message: Message, record: Stored) -> None:
        """Ack a task that has ended before, and remove what may be left of it."""
        self._counts.repeated += 1
        if message.joined and _decode_record(record.body).ended is not Ended.DEAD:
            await self._forget_group(delivery, message)  # a dead one's is kept, for a retry
        await self._end(delivery, committed=False)
        await self._launcher.clear(Task(message=message))

    async def join(self, delivery: Delivery, message: Message) -> None:
        """Consume a member: it is counted in its group, which may thereby be complete."""
        self.settling.add(delivery.message_id)
        effects = self._scribe.member(message)
        settlement = await self._committer.commit(placed(effects, delivery))
        if settlement.kind in (Settled.LATE, Settled.UNACCEPTABLE):
            reason = Reason.LATE if settlement.kind is Settled.LATE else Reason.REFUSED
            verdict = Bury(reason, settlement.text)
            await self._bury(delivery, self._scribe.dead(message, verdict), verdict)
        await self._end(delivery, committed=settlement.kind is Settled.COMMITTED)

    async def bury_unread(self, delivery: Delivery, verdict: Bury) -> None:
        """Bury a message that nobody will ever be able to run."""
        module, raw = self.module.name, delivery.raw
        letter = self._scribe.unread(raw, module, delivery.message_id, verdict)
        await self._bury(delivery, letter, verdict)
        await self._end(delivery, committed=False)

    async def _end(self, delivery: Delivery, *, committed: bool) -> None:
        """Ack a task whose end is stored."""
        await self._ledger.receive(delivery, self.module.name, committed=committed)

    async def _bury(self, delivery: Delivery, letter: Effects, verdict: Bury) -> None:
        """Set aside a message that was never run, and say so; nothing if it had ended before."""
        if await self._committer.bury(placed(letter, delivery)):
            self._counts.dead += 1
            self._tell_dead(delivery.message_id, verdict.text)

    def _tell_dead(self, task_id: str, why: str) -> None:
        what = {"sbx_module": self.module.name, "task": task_id}
        log.warning("task_dead", extra={**what, "why": why})

    async def decline(self, delivery: Delivery, task: Task, before: Attempts, delay: float) -> None:
        """Give a message back for which nothing was started, or ended only as the node does."""
        await self._launcher.clear(task)
        if delivery.redelivered:
            # It is not to blame, so the start that was written down is taken back: however
            # often a task comes to a host that cannot run it, it is not buried for that.
            await self.remember(task.message, before)
        await delivery.give_back(delay)

    async def remember(self, message: Message, attempts: Attempts) -> None:
        """Write down what went wrong with a task so far."""
        key = attempts_key(message.module, message.id)
        await self._broker.put_state(key, _encode(attempts), life=DONE_RECORD_LIFE)

    def _note(self, delivery: Delivery, task: Task, outcome: Outcome, word: str) -> None:
        """Count a run and keep its record."""
        self._counts.count(word, outcome.finished - outcome.started)
        if word == "dead":
            self._tell_dead(task.message.id, describe(outcome))
        self._journal.add(run_record(delivery, task, outcome, word))
