"""What the end of a task writes: a done-record first, then its outputs or its dead letter.

Pure. All entries of one `Effects` are stored in one atomic batch, and the record's expectation
(`expect=0`) refuses the whole batch if the task has ended before: runs may repeat, effects not.
"""

from collections.abc import Mapping

import msgspec

from scalebox_actors.contract import Emission, is_system_header
from scalebox_actors.errors import BadMessage, BadOutput
from scalebox_actors.gather import Joining, group_of
from scalebox_actors.limits import BATCH_MESSAGES
from scalebox_actors.message import (
    FROM_HOST,
    FROM_IP,
    FROM_MODULE,
    FROM_SITE,
    HOP,
    MSG_ID,
    MSG_TTL,
    PARENT,
    REASON,
    ROOT,
    TRACEPARENT,
    USER,
    Message,
    Raw,
    check_size,
    check_user_headers,
    header_block_size,
    wire_headers,
)
from scalebox_actors.names import Names, body_id, bound_for, child_id
from scalebox_actors.placement import TO_SITE, Bound, choose
from scalebox_actors.policy import Bury
from scalebox_actors.ports import Entry
from scalebox_actors.records import DoneRecord, Ended, Outcome
from scalebox_actors.topology.model import Identity, Module, Topology

DETAIL = "Sbx-Detail"
LOG_TAIL = "Sbx-Log-Tail"
DETAIL_CHARACTERS = 300
LOG_TAIL_CHARACTERS = 1000
LETTER_BLOCK_BYTES = 12 * 1024
"""A dead letter's original headers are kept up to this size."""

_encode = msgspec.json.Encoder().encode


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one task's end stores."""

    record: Entry
    outputs: tuple[Entry, ...] = ()
    crossing: tuple[Entry, ...] = ()
    """Outputs that wait to be carried and may be stored in one parcel with those of others."""
    joining: Joining | None = None
    """For a member of a group: what its arrival adds to the group."""
    others: tuple[Entry, ...] = ()
    """The records of further tasks that end by the same run: stored with this one or not at all."""

    @property
    def records(self) -> tuple[Entry, ...]:
        """The records of all tasks that end by this."""
        return (self.record, *self.others)

    @property
    def messages(self) -> int:
        """How many messages of a batch this takes at most."""
        outputs = len(self.outputs) + len(self.crossing)
        return len(self.records) + outputs + (3 if self.joining else 0)

    @property
    def size(self) -> int:
        """Roughly how many bytes of a batch this takes."""
        member = self.joining.entry.size if self.joining else 0
        entries = (*self.records, *self.outputs, *self.crossing)
        return sum(entry.size for entry in entries) + member


class Scribe(msgspec.Struct, frozen=True, kw_only=True):
    """Writes down how tasks of one topology ended on one node."""

    topology: Topology
    names: Names
    node: str
    ip: str = ""
    body_limit: int
    pending: Mapping[str, int] = {}
    """How much waits here for modules with `overflow`; the node keeps it up to date."""

    def done(self, message: Message, outcome: Outcome, *, tasks: int = 1) -> Effects:
        """Return what a successful run stores; raises BadOutput if its outputs cannot be.

        `tasks`: so many end by it, whose records all go into the same batch.
        """
        module = self.topology.modules[message.module]
        base = self._base_headers(message)
        outputs = tuple(
            self._output(message, module, base, index, emission)
            for index, emission in enumerate(outcome.emissions)
        )
        if len(outputs) + tasks > BATCH_MESSAGES:
            raise BadOutput(f"{len(outputs)} outputs; at most {BATCH_MESSAGES - tasks} fit a batch")
        record = self._record(message, Ended.DONE, outcome, outputs=len(outputs))
        if not self.topology.sites:
            return Effects(record=record, outputs=outputs)
        crossing = tuple(entry for entry in outputs if self._shares(entry))
        alone = tuple(entry for entry in outputs if not self._shares(entry))
        return Effects(record=record, outputs=alone, crossing=crossing)

    def dead(self, message: Message, verdict: Bury, outcome: Outcome | None = None) -> Effects:
        """Return what burying a task stores: its dead letter and its done-record."""
        letter = self._letter(message, wire_headers(message), verdict, outcome)
        record = self._record(message, Ended.DEAD, outcome, reason=str(verdict.reason))
        return Effects(record=record, outputs=(letter,))

    def unread(self, raw: Raw, module: str, message_id: str, verdict: Bury) -> Effects:
        """Return what burying a message stores that could not even be read."""
        message = Message(module=module, id=message_id, body=raw.body)
        letter = self._letter(message, _legible(raw.headers), verdict, None)
        record = self._record(message, Ended.DEAD, None, reason=str(verdict.reason))
        return Effects(record=record, outputs=(letter,))

    def cancelled(self, message: Message) -> Effects:
        """Return what cancelling a task stores; whatever runs of it still live then lose."""
        return Effects(record=self._record(message, Ended.CANCELLED, None))

    def member(self, message: Message) -> Effects:
        """Return what the arrival of a member stores; raises BadMessage without group or count."""
        module = self.topology.modules[message.module]
        if module.gather is None:
            raise BadMessage(f"module {module.name!r} gathers nothing")
        joining = group_of(self.names, module.gather, message)
        record = self._record(message, Ended.DONE, None, reason=f"joined {joining.group}")
        return Effects(record=record, joining=joining)

    def _record(
        self,
        message: Message,
        ended: Ended,
        outcome: Outcome | None,
        *,
        outputs: int = 0,
        reason: str = "",
    ) -> Entry:
        record = DoneRecord(
            ended=ended,
            node=self.node,
            started=outcome.started if outcome else 0.0,
            finished=outcome.finished if outcome else 0.0,
            exit_code=outcome.exit_code if outcome else 0,
            outputs=outputs,
            reason=reason,
        )
        return Entry(
            subject=self.names.done(message.module, message.id),
            body=_encode(record),
            headers={MSG_TTL: f"{max(1, round(self.topology.remember))}s"},
            expect=0,
        )

    def _base_headers(self, message: Message) -> dict[str, str]:
        base = {
            PARENT: message.id,
            ROOT: message.root or message.id,
            HOP: str(message.hop + 1),
            FROM_MODULE: message.module,
            FROM_HOST: self.node,
            FROM_SITE: self.names.site,
        }
        if self.ip:
            base[FROM_IP] = self.ip
        if message.traceparent:
            base[TRACEPARENT] = message.traceparent
        return base

    def _output(
        self,
        message: Message,
        module: Module,
        base: Mapping[str, str],
        index: int,
        emission: Emission,
    ) -> Entry:
        sink = self._sink(module, emission, index)
        headers = dict(base)
        own = _propagated(message.headers, emission.headers)
        if own:
            headers[USER] = _encode(own).decode()
        target = self.topology.modules.get(sink)
        if target is not None and target.identity is Identity.BODY:
            headers[MSG_ID] = body_id(sink, emission.body)
        else:
            headers[MSG_ID] = child_id(message.module, message.id, sink, index)
        try:
            check_user_headers(own)
            check_size(emission.body, headers, self.body_limit)
            bound = Bound(
                id=headers[MSG_ID], body=emission.body, to_site=emission.headers.get(TO_SITE, "")
            )
            subject = self._address(sink, bound) if sink else self.names.result(module.name)
        except BadMessage as error:
            raise BadOutput(f"output {index + 1}: {error}") from error
        return Entry(subject=subject, body=emission.body, headers=headers)

    def _address(self, sink: str, bound: Bound) -> str:
        """Return where an output is stored: a task here, or waiting to be carried to its site."""
        here = self.names.site
        waiting = self.pending.get(sink, 0)
        site = choose(self.topology, here, sink, bound, pending=waiting)
        return self.names.task(sink) if site == here else self.names.out(site, sink)

    def _shares(self, entry: Entry) -> bool:
        """Whether an output may be stored in a parcel.

        Inside one the server does not see its id. One that a second task may send under the same
        id, which it would recognise here, stays a message of its own.
        """
        if not self.names.is_out(entry.subject):
            return False
        module = self.topology.modules[bound_for(entry.subject).module]
        return module.identity is not Identity.BODY

    def _sink(self, module: Module, emission: Emission, index: int) -> str:
        """Return the module that an output goes to; empty: it is a result."""
        target = emission.module
        if target is None:
            if len(module.sinks) > 1:
                raise BadOutput(
                    f"output {index + 1} names no module, and {module.name!r} has several sinks: "
                    + ", ".join(module.sinks)
                )
            return module.sinks[0] if module.sinks else ""
        if target not in module.sinks:
            raise BadOutput(
                f"output {index + 1} is for {target!r}, which is not a sink of {module.name!r}"
            )
        return target

    def _letter(
        self,
        message: Message,
        headers: Mapping[str, str],
        verdict: Bury,
        outcome: Outcome | None,
    ) -> Entry:
        kept = {name: value for name, value in headers.items() if not name.startswith("Nats-")}
        if header_block_size(kept) > LETTER_BLOCK_BYTES:
            kept = {ROOT: kept.get(ROOT, message.id)}
        kept[REASON] = str(verdict.reason)
        kept[DETAIL] = _one_line(verdict.text, DETAIL_CHARACTERS)
        tail = outcome.stderr.text or outcome.stdout.text if outcome else ""
        if tail:
            kept[LOG_TAIL] = log_tail(tail)
        subject = self.names.dead(message.module, message.id)
        return Entry(subject=subject, body=message.body, headers=kept)


def _propagated(consumed: Mapping[str, str], emitted: Mapping[str, str]) -> dict[str, str]:
    """Headers of an output: those that start with `_` are passed on, the line's own win."""
    if not consumed and not emitted:
        return {}
    passed = {name: value for name, value in consumed.items() if name.startswith("_")}
    own = {name: value for name, value in emitted.items() if not is_system_header(name)}
    return passed | own


def log_tail(text: str) -> str:
    """Return the end of what a program printed as a header's value, its line breaks written out."""
    lines = text[-LOG_TAIL_CHARACTERS:].strip().splitlines()
    return "\\n".join(_one_line(line, LOG_TAIL_CHARACTERS) for line in lines)[-LOG_TAIL_CHARACTERS:]


def read_log_tail(header: str) -> str:
    """Return what `log_tail` wrote, as lines."""
    return header.replace("\\n", "\n")


def _one_line(text: str, most: int) -> str:
    """Return text that is safe as a header's value: printable ASCII, bounded, one line."""
    flat = text.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(c if c.isprintable() else " " for c in flat)[:most].strip()


def _legible(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what can be kept of the headers of a message that could not be read."""
    return {
        _one_line(name, 64) or "_": _one_line(value, 256)
        for name, value in list(headers.items())[:32]
        if ":" not in name
    }
