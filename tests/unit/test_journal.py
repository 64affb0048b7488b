"""The journal: what is kept of runs until it is written, and never more than fits."""

import msgspec
import pytest

from scalebox_actors.journal import LINE_BYTES, Journal
from scalebox_actors.limits import MIB
from scalebox_actors.names import Names
from scalebox_actors.records import RunRecord
from scalebox_actors.testing.memory import MemoryBroker


@pytest.mark.parametrize("character", ["x", "\0", "漢"])
async def test_a_record_of_endless_texts_is_cut_and_not_lost(character: str) -> None:
    """However much a run printed, its record fits a message, and the ends of its texts are kept."""
    journal, broker = Journal("n1"), MemoryBroker(Names("t"), ["a"])
    text = character * MIB + "end"
    journal.add(RunRecord(module="a", id="m1", stdout=text, stderr=text, auxout=text))
    await journal.flush(broker)

    ((_, line),) = broker.traced
    record = msgspec.json.decode(line, type=RunRecord)
    assert len(line) <= LINE_BYTES
    assert record.cut
    assert (record.stdout[-3:], record.stderr[-3:], record.auxout[-3:]) == ("end", "end", "end")
