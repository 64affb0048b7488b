"""The actor: takes a module's messages, runs its program for each, settles what happened.

`Actor.handle` is the path of one message, DESIGN in one screen: whatever dies at whatever line,
the next delivery finds the exited container or the done-record and carries on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping

import msgspec

from scalebox_actors import gather
from scalebox_actors.admission import Admission
from scalebox_actors.batches import Seated, Seats
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
from scalebox_actors.foresight import Foresight
from scalebox_actors.hands import SETTLE_SECONDS, Hands
from scalebox_actors.journal import Counts
from scalebox_actors.limits import GROUP_MEMBERS
from scalebox_actors.message import Message, read
from scalebox_actors.names import attempts_key, run_name
from scalebox_actors.policy import Bury, Reason, poisoned
from scalebox_actors.pool import Share, run_claim
from scalebox_actors.ports import (
    Delivery,
    Intake,
    Launcher,
    Stored,
    Task,
)
from scalebox_actors.records import POISON, Attempts, Cause, DoneRecord, Outcome, spoilt
from scalebox_actors.settle import Desk, Settler
from scalebox_actors.topology.model import Module

TWIN_LATER = 1.0
"""Seconds before a second copy of a message comes again that would have held up a batch."""
CLOSE_SECONDS = 15.0
"""So long those that end with their node may take, once it is told to stop."""
AGAIN_LATER = 30.0
"""Seconds before a message is offered again that this node could not even start."""
ENGINE_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)

log = logging.getLogger(__name__)
_decode_attempts = msgspec.json.Decoder(Attempts).decode
_decode_record = msgspec.json.Decoder(DoneRecord).decode
_encode = msgspec.json.Encoder().encode


class Actor:
    """Runs one module on one node."""

    def __init__(self, module: Module, launcher: Launcher, desk: Desk) -> None:
        self.module = module
        self.suspended = ""
        """Why nothing can be started here for now; empty while all is well."""
        self._launcher, self._broker = launcher, desk.broker
        self._committer, self._scribe = desk.committer, desk.scribe
        self._journal, self._ledger = desk.journal, desk.ledger
        self._counts: Counts = desk.journal.of(module.name)
        self._admission = Admission(desk.pool, run_claim(module), desk.journal.node)
        self._hands = Hands(module.slots, self._work, self._admission, self._run_of)
        launcher.watch_room(self._hands.resize)
        self._foresight = Foresight(desk.broker, module.name)
        self._seats = Seats(module.slots)
        self._settler = Settler(module, launcher, desk, self._seats)
        self._tasks: dict[str, Task] = {}
        self._taking = asyncio.Lock()
        """Held while deliveries are on their way into `_hands`."""
        self._killing = self._closed = False
        self._resuming: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Take deliveries into the module's slots until cancelled."""
        self._launcher.open()
        if why := self._admission.lack:
            self.suspend(why)
        async with self._broker.intake(self.module.name) as intake:
            if self._launcher.costly:
                intake.foretell(self._foresight.look)
            self._hands.open(intake)
            async for delivery in intake:
                await self._take(intake, delivery)

    async def handle(self, delivery: Delivery) -> None:
        """Take one delivery to its end; safe to be killed at any await (docs/failure.md)."""
        try:
            message = self._read(delivery)
            record = await self._record(delivery)
            if record is not None:  # a twin, or died between commit and ack
                return await self._settler.leave(delivery, message, record)
            if self.module.gather is not None and not message.joined:
                self._vacate(delivery)
                return await self._settler.join(delivery, message)
            share = await self._hands.share(delivery)
            if share is None:  # another node may have room
                return await delivery.give_back(0.0)
            attempts = await self._attempts(delivery, message)
            task = await self._task(delivery, message, attempts, share)
        except BadMessage as error:  # nobody will ever be able to run it
            return await self._settler.bury_unread(delivery, Bury(Reason.BAD_MESSAGE, str(error)))
        before = attempts
        if delivery.redelivered and not await self._launcher.underway(task):
            if poisoned(attempts):
                return await self._settler.settle(delivery, task, attempts, POISON)
            # Written before the start, so that starts are counted on whichever host they happen.
            attempts = attempts.with_start()
            await self._settler.remember(message, attempts)
        try:
            outcome = await self._launch(delivery, task, attempts)
        except (ImageMissing, SpecRejected, NotAdmitted) as error:  # never the task's fault
            return await self._not_started(delivery, task, before, error)
        self._hands.weigh(len(task.message.body) + outcome.output_bytes)
        if not outcome.removed:  # what is to be removed must not be the next run's by then
            self._vacate(delivery)
        if self._killing and outcome.exit_code != 0:  # a person ended it: no verdict on the task
            await self._launcher.clear(task)
            return await delivery.give_back(0.0)
        return await self._settler.settle(delivery, task, attempts, outcome)

    async def drain(self) -> None:
        """Take nothing more and wait until nothing is in hand."""
        self.hold()
        async with self._taking:  # what is on its way goes back
            pass
        await self._hands.empty()

    def hold(self) -> None:
        """Take nothing more; what is in hand goes on, but for what waits to be let in."""
        self._hands.close()
        self._launcher.hold()

    async def stop_runs(self) -> None:
        """Kill every run in hand and give their messages back, as if they had not been taken."""
        self._killing = True
        self.hold()
        if self._launcher.ends_runs:
            await self.close()
        last_first = list(self._tasks.values())[::-1]  # what waits for its turn does not get it
        await asyncio.gather(*(self._launcher.stop(task) for task in last_first))
        await self.drain()

    async def cancel(self, message_id: str) -> bool:
        """Kill the run of one task, whose record says `cancelled` already."""
        if (task := self._tasks.get(message_id)) is not None:
            await self._launcher.stop(task)
        return task is not None

    async def abandon(self) -> None:
        """Let go of all that runs, for the next node to adopt; what has ended is settled first.

        What nobody could adopt is ended, and only then given back: it never runs twice at once. The
        exception is what a function handed to a thread (docs/contract.md).
        """
        if self._resuming is not None:
            self._resuming.cancel()
        if self._launcher.ends_runs:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.close()
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._hands.empty()
        await self._hands.abandon(self._settler.settling.__contains__)

    async def close(self) -> None:
        """End the containers that outlive a message, and what cannot without its node."""
        if not self._closed:  # what did not end by the first time is left to the reaper
            self._closed = True
            await self._launcher.close()

    @property
    def states(self) -> Mapping[str, int]:
        """How many of the containers that stay are in which state."""
        return self._launcher.states

    def holds(self, name: str) -> bool:
        """Whether the run of that name belongs to a task in hand, or is a container that stays."""
        mine = any(self._run_of(task.message.id) == name for task in self._tasks.values())
        return mine or self._launcher.holds(name)

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
            self._settler.settling.discard(delivery.message_id)
            self._tasks.pop(delivery.message_id, None)
            self._foresight.forget(delivery.message_id)
            self._hands.vacate(await self._seats.leave(delivery.message_id))

    async def _take(self, intake: Intake, delivery: Delivery) -> None:
        """Begin to work on a delivery, with `batch` also on others that wait now."""
        wanted = self.module.batch
        if wanted is None or self._hands.has(delivery):
            self._hands.take(delivery)
            return
        async with self._taking:
            others: dict[str, Delivery] = {}
            for other in await intake.more(wanted.size - 1):
                twin = other.message_id in (delivery.message_id, *others) or self._hands.has(other)
                if twin:  # it would wait for the other one, and the whole batch with it
                    await other.give_back(TWIN_LATER)
                else:
                    others[other.message_id] = other
            if self._hands.closed:  # meanwhile; others begin with it sooner than we come to its end
                for one in (delivery, *others.values()):
                    await one.give_back(0.0)
                return
            batch = self._seats.share([delivery.message_id, *others], atomic=wanted.atomic)
            batch.holder = self._hands.take(delivery)
            for other in others.values():
                self._hands.take(other, beside=True)

    def _vacate(self, delivery: Delivery) -> None:
        """Let the next run begin: what is left to do for this one needs no slot."""
        self._hands.vacate(self._seats.vacate(delivery.message_id))

    def _run_of(self, task_id: str) -> str:
        return run_name(self._broker.names.topology, self.module.name, task_id)

    async def _hand_back(self, delivery: Delivery) -> None:
        self._hands.leave_behind(delivery)
        with contextlib.suppress(SbxError):
            await delivery.give_back(AGAIN_LATER)

    # --- before the run -------------------------------------------------------------------------

    def _read(self, delivery: Delivery) -> Message:
        hops, most = self._scribe.topology.hops, self._broker.body_limit
        task_id = delivery.message_id
        return read(delivery.raw, self.module.name, task_id, hops=hops, body_limit=most)

    async def _record(self, delivery: Delivery) -> Stored | None:
        """Ask for the done-record where that can spare a run; the commit fences in any case."""
        if not (delivery.redelivered or self._launcher.costly):
            return None
        return await self._foresight.record(delivery)

    async def _attempts(self, delivery: Delivery, message: Message) -> Attempts:
        if not delivery.redelivered:
            return Attempts()
        stored = await self._broker.get_state(attempts_key(message.module, message.id))
        return _decode_attempts(stored) if stored else Attempts()

    async def _task(
        self, delivery: Delivery, message: Message, attempts: Attempts, share: Share
    ) -> Task:
        """Return the task to run; for a joined message, with its members and their bodies."""
        members: tuple[Message, ...] = ()
        if message.joined:
            key, members = await self._group(delivery, message)
            body = gather.joined_body(key, members)
            message = msgspec.structs.replace(message, body=body)
        slot, number = self._seats.sit(message.id), attempts.number
        task = Task(message=message, attempt=number, members=members, slot=slot, share=share)
        self._tasks[message.id] = task
        return task

    async def _group(self, delivery: Delivery, message: Message) -> tuple[str, tuple[Message, ...]]:
        """Return name and members of the group that a joined message stands for.

        Anybody who may send can say that a message is a joined one: it must not end a group that
        waits for members. Raises Transient at first, since a replica may lag behind what was
        written with a true one, and then BadMessage.
        """
        names, module, token = self._broker.names, message.module, message.joined
        count = await self._broker.read(names.group(module, token))
        group = gather.decode(count) if count is not None else None
        pattern = names.member(module, token, "*")
        stored = await self._broker.read_all(pattern, most=GROUP_MEMBERS)
        need = group.count if group is not None else 1  # an earlier version let counts go before
        why = f"the group {token} has {len(stored)} of {need} members" if len(stored) < need else ""
        if group is not None and not group.released:
            why = f"the group {token} waits for members"
        if why:
            raise BadMessage(why) if delivery.redelivered else Transient(why)
        key = group.key if group is not None else gather.key_of(message)
        return key, tuple(gather.member_of(entry, module) for entry in stored)

    async def _launch(self, delivery: Delivery, task: Task, attempts: Attempts) -> Outcome:
        """Run the task, in a batch in its turn; one that has gone wrong before runs alone."""
        batch = self._seats.batch(task.message.id)
        if batch is None:
            return await self._start(task)
        alone = attempts.failed > 0 or attempts.starts > 1
        return await batch.run(Seated(task, delivery), self._start_batch, alone=alone)

    async def _start_batch(self, task: Task) -> Outcome:
        """Run a task, or several as one; what can be stored of that is the same for all."""
        outcome = await self._start(task)
        if len(task.members) <= 1 or outcome.exit_code != 0:
            return outcome
        try:
            self._scribe.done(task.message, outcome, tasks=len(task.members))
        except BadOutput as error:
            return spoilt(outcome, error)
        return outcome

    async def _start(self, task: Task) -> Outcome:
        """Run the task; while the engine does not answer, keep it in hand and try again."""
        tries = 0
        while True:
            try:
                outcome = await self._launcher.run(task)
            except RuntimeUnavailable as error:
                pause = ENGINE_PAUSES[min(tries, len(ENGINE_PAUSES) - 1)]
                tries += 1
                log.warning("engine_unavailable", extra={"why": str(error), "pause": pause})
                await asyncio.sleep(pause)
            else:
                if outcome.cause is Cause.NOT_STARTED:
                    raise SpecRejected(outcome.detail)
                return outcome

    async def _suspend(self, delivery: Delivery, task: Task, before: Attempts, reason: str) -> None:
        """Take nothing more until the module can be started here; the task is not to blame."""
        if not self.suspended:
            self.suspend(reason)
            self._resuming = asyncio.create_task(self._resume())
        await self._settler.decline(delivery, task, before, AGAIN_LATER)

    async def _not_started(
        self, delivery: Delivery, task: Task, before: Attempts, error: SbxError
    ) -> None:
        if isinstance(error, NotAdmitted):  # the node ends before it could, or others run for long
            await self._settler.decline(delivery, task, before, 0.0)
        else:
            await self._suspend(delivery, task, before, str(error))

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
