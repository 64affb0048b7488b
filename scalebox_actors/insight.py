"""The record of a run, from what is known at its end. Pure."""

import time

from scalebox_actors.policy import Done, TryAgain, Verdict
from scalebox_actors.ports import Delivery, Task
from scalebox_actors.records import Outcome, RunRecord, Settled, Settlement

BODY_PREVIEW = 256


def verdict_word(verdict: Verdict, settlement: Settlement | None) -> str:
    """Return the word for what became of a run: done, retry, dead, or repeated."""
    if settlement is not None and settlement.kind is Settled.ALREADY:
        return "repeated"
    match verdict:
        case Done():
            return "done"
        case TryAgain():
            return "retry"
        case _:
            return "dead"


def run_record(delivery: Delivery, task: Task, outcome: Outcome, word: str) -> RunRecord:
    """Return what is kept of a run; the node and site are the journal's to add."""
    message = task.message
    body = delivery.raw.body
    return RunRecord(
        module=message.module,
        id=message.id,
        attempt=task.attempt,
        parent=message.parent,
        root=message.root,
        hop=message.hop,
        verdict=word,
        cause=outcome.cause.value,
        detail=outcome.detail,
        exit_code=outcome.exit_code,
        created=delivery.stored,
        started=outcome.started,
        finished=outcome.finished,
        committed=time.time(),
        body=body[:BODY_PREVIEW].decode("utf-8", "replace"),
        body_bytes=len(body),
        outputs=len(outcome.emissions),
        stdout=outcome.stdout.text,
        stderr=outcome.stderr.text,
        auxout=outcome.auxout.text,
        cut=outcome.stdout.cut or outcome.stderr.cut,
        extras=outcome.extras,
        usage=outcome.usage,
    )
