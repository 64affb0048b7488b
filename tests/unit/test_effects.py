"""What the end of a task stores: the record first, the outputs with their ids, or a letter."""

import msgspec
import pytest

from scalebox_actors.contract import Cut, Emission
from scalebox_actors.effects import DETAIL, LETTER_BLOCK_BYTES, LOG_TAIL, Scribe
from scalebox_actors.errors import BadMessage, BadOutput
from scalebox_actors.message import (
    FROM_MODULE,
    HOP,
    MSG_ID,
    MSG_TTL,
    PARENT,
    REASON,
    ROOT,
    USER,
    Message,
    Raw,
    header_block_size,
    read,
)
from scalebox_actors.names import Names, body_id, child_id
from scalebox_actors.policy import Bury, Reason
from scalebox_actors.records import DoneRecord, Ended, Outcome
from scalebox_actors.topology.model import Duration, Gather, Identity, Module, Site, Topology

TOPOLOGY = Topology(
    name="t",
    remember=Duration(60),
    modules={
        "a": Module(name="a", sinks=("b",)),
        "b": Module(name="b", sinks=("b", "c"), identity=Identity.BODY),
        "c": Module(name="c", gather=Gather(by="day", count="parts")),
    },
)
SCRIBE = Scribe(topology=TOPOLOGY, names=Names("t"), node="n1", ip="10.0.0.1", body_limit=1000)
MESSAGE = Message(module="a", id="p", body=b"x", root="r", hop=3, headers={"_k": "1", "u": "2"})


def emission(body: bytes = b"o", module: str | None = None, **headers: str) -> Emission:
    """One follow-on message that a run asks for."""
    return Emission(module=module, body=body, headers=headers)


def outcome(*emissions: Emission) -> Outcome:
    """A run that ended well with these outputs."""
    return Outcome(exit_code=0, started=1.0, finished=2.0, emissions=emissions)


def test_what_is_for_another_site_waits_here_to_be_carried() -> None:
    """Outputs for a module elsewhere go, in the same batch, where the courier takes them."""
    sites = {"hub": Site(name="hub", hub=True), "x": Site(name="x")}
    modules = {
        "a": Module(name="a", sites=("hub",), sinks=("b", "c")),
        "b": Module(name="b", sites=("x",)),
        "c": Module(name="c"),
    }
    topology = Topology(name="t", sites=sites, modules=modules)
    scribe = Scribe(topology=topology, names=Names("t", "hub"), node="n", body_limit=99)
    asked = outcome(emission(module="b"), emission(module="c"), emission(module="c", to_site="x"))

    effects = scribe.done(MESSAGE, asked)

    assert effects.record.subject == "sbx.t.hub.done.a.p"
    assert [output.subject for output in effects.outputs] == ["sbx.t.hub.task.c"]
    assert [output.subject for output in effects.crossing] == [
        "sbx.t.hub.out.x.b",
        "sbx.t.hub.out.x.c",
    ]
    assert msgspec.json.decode(effects.record.body)["outputs"] == 3


def test_what_a_second_task_may_send_again_shares_no_parcel() -> None:
    """With `identity: body` the server must see the id, so such a message is stored alone."""
    sites = {"hub": Site(name="hub", hub=True), "x": Site(name="x")}
    modules = {
        "a": Module(name="a", sites=("hub",), sinks=("b",)),
        "b": Module(name="b", sites=("x",), identity=Identity.BODY),
    }
    topology = Topology(name="t", sites=sites, modules=modules)
    scribe = Scribe(topology=topology, names=Names("t", "hub"), node="n", body_limit=99)

    effects = scribe.done(MESSAGE, outcome(emission()))

    assert ([o.subject for o in effects.outputs], effects.crossing) == (["sbx.t.hub.out.x.b"], ())


def test_a_site_without_the_module_is_a_bad_output() -> None:
    """A wish that cannot be met is the program's fault, and nothing of its outputs is sent."""
    with pytest.raises(BadOutput, match="output 1: to_site 'moon'"):
        SCRIBE.done(MESSAGE, outcome(emission(to_site="moon")))


def test_the_record_comes_first_and_fences() -> None:
    """The done-record expects that there is none, lives as long as told, and says how it went."""
    effects = SCRIBE.done(MESSAGE, outcome(emission()))

    assert effects.record.subject == "sbx.t.local.done.a.p"
    assert effects.record.expect == 0
    assert effects.record.headers == {MSG_TTL: "60s"}
    assert msgspec.json.decode(effects.record.body, type=DoneRecord) == DoneRecord(
        ended=Ended.DONE, node="n1", started=1.0, finished=2.0, outputs=1
    )


def test_outputs_carry_lineage_and_origin() -> None:
    """Parent, root, hop and origin are the actor's to say; headers with `_` are passed on."""
    (output,) = SCRIBE.done(MESSAGE, outcome(emission(from_module="forged", own="y"))).outputs

    assert output.subject == "sbx.t.local.task.b"
    assert output.headers[PARENT] == "p"
    assert output.headers[ROOT] == "r"
    assert output.headers[HOP] == "4"
    assert output.headers[FROM_MODULE] == "a"
    assert msgspec.json.decode(output.headers[USER]) == {"_k": "1", "own": "y"}


def test_ids_are_the_same_for_every_run() -> None:
    """A second run of a task gives its outputs the ids of the first; bodies may name them."""
    first = SCRIBE.done(MESSAGE, outcome(emission(b"1"), emission(b"1")))
    parent = msgspec.structs.replace(MESSAGE, module="b")
    second = SCRIBE.done(parent, outcome(emission(b"1", "c"), emission(b"1", "b")))

    assert [o.headers[MSG_ID] for o in first.outputs] == [body_id("b", b"1")] * 2
    assert second.outputs[0].headers[MSG_ID] == child_id("b", "p", "c", 0)
    assert second.outputs[1].headers[MSG_ID] == body_id("b", b"1")


def test_a_module_without_sinks_gives_results() -> None:
    """What the last module emits is a result."""
    last = msgspec.structs.replace(MESSAGE, module="c")

    (output,) = SCRIBE.done(last, outcome(emission())).outputs

    assert output.subject == "sbx.t.local.result.c"


@pytest.mark.parametrize(
    ("module", "output", "reason"),
    [
        pytest.param("b", emission(), "several sinks", id="no-default-among-several"),
        pytest.param("a", emission(module="c"), "not a sink of 'a'", id="not-a-sink"),
        pytest.param("a", emission(b"x" * 1001), "1001 bytes", id="too-large"),
        pytest.param("a", emission(h="ä"), "ASCII", id="bad-header"),
    ],
)
def test_an_impossible_output_spoils_the_run(module: str, output: Emission, reason: str) -> None:
    """All or nothing: one output that cannot be stored is bad output, with its number."""
    message = msgspec.structs.replace(MESSAGE, module=module)

    good = emission(module="b")

    with pytest.raises(BadOutput, match=f"output 2.*{reason}"):
        SCRIBE.done(message, outcome(good, output))


def test_outputs_fit_one_batch() -> None:
    """999 outputs and the record are a full batch; one more is bad output."""
    assert SCRIBE.done(MESSAGE, outcome(*[emission()] * 999)).messages == 1000
    with pytest.raises(BadOutput, match="1000 outputs"):
        SCRIBE.done(MESSAGE, outcome(*[emission()] * 1000))


def test_a_dead_letter_tells_why() -> None:
    """The letter keeps body, lineage and headers, and adds reason, sentence and log tail."""
    failed = Outcome(exit_code=1, stderr=Cut(text="first\nlast: \x1b[31mbad", size=20))
    effects = SCRIBE.dead(MESSAGE, Bury(Reason.EXHAUSTED, "exit code 1\nä"), failed)

    (letter,) = effects.outputs

    assert letter.subject == "sbx.t.local.dead.a.p"
    assert letter.body == b"x"
    assert letter.headers[REASON] == "exhausted"
    assert letter.headers[DETAIL] == "exit code 1 \\xe4"
    assert letter.headers[LOG_TAIL] == "first\\nlast:  [31mbad"
    assert letter.headers[ROOT] == "r"
    assert MSG_ID not in letter.headers
    assert msgspec.json.decode(effects.record.body)["ended"] == "dead"


def test_a_letter_for_what_cannot_be_read() -> None:
    """Also garbage is kept: its body whole, of its headers what a header may hold."""
    raw = Raw(
        subject="s", body=bytes(range(256)), headers={"X\n": "\x00\xff", "Nats-Msg-Id": "a b"}
    )

    effects = SCRIBE.unread(raw, "a", "_7", Bury(Reason.BAD_MESSAGE, "no"))

    (letter,) = effects.outputs
    assert letter.body == raw.body
    assert letter.headers["X"] == "\\xff"
    assert MSG_ID not in letter.headers


def test_a_letter_always_fits() -> None:
    """Headers that leave no room for the reason are dropped, the reason is not."""
    big = {f"h{i}": "v" * 256 for i in range(60)}
    letter = SCRIBE.dead(
        msgspec.structs.replace(MESSAGE, headers=big),
        Bury(Reason.EXHAUSTED, "x" * 5000),
        Outcome(exit_code=1, stdout=Cut(text="y" * 5000, size=5000)),
    ).outputs[0]

    assert header_block_size(letter.headers) < LETTER_BLOCK_BYTES + 2048
    assert letter.headers[REASON] == "exhausted"


def test_a_member_needs_its_group() -> None:
    """A member without the header that names its group is a bad message."""
    message = msgspec.structs.replace(MESSAGE, module="c")

    with pytest.raises(BadMessage, match="no header 'day'"):
        SCRIBE.member(message)


def test_a_member_is_consumed_by_its_own_record() -> None:
    """A member's record fences it as any other's; what it joins comes with it."""
    message = msgspec.structs.replace(MESSAGE, module="c", headers={"day": "mon", "parts": "2"})

    effects = SCRIBE.member(message)

    assert effects.record.subject == "sbx.t.local.done.c.p"
    assert effects.joining is not None
    assert (effects.joining.key, effects.joining.need) == ("mon", 2)
    member = effects.joining.entry
    assert read(
        Raw(subject="", body=member.body, headers={**member.headers, MSG_ID: "p"}), "c", "p"
    ) == msgspec.structs.replace(message)
