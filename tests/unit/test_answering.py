"""Answers go to inboxes, and only a delivery of ours is acknowledged."""

import asyncio
from collections.abc import Awaitable
from typing import cast

import msgspec
import pytest

from scalebox_actors.broker import Link, answer_on
from scalebox_actors.broker.answering import is_inbox
from scalebox_actors.broker.client import Receiver
from scalebox_actors.broker.delivery import ack_subjects
from scalebox_actors.broker.place import claim
from scalebox_actors.names import Names
from scalebox_actors.topology.model import Site, Topology

HUB = Names("t", "hub")
TOPOLOGY = Topology(name="t", modules={}, sites={n: Site(name=n) for n in ("hub", "b")})
TIME = "2026-11-26T21:46:14.123456789Z"
OURS = ack_subjects("SBX_t_AT_a", "run_m")


class Line:
    """A link on which one question comes."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []
        self.told: list[str] = []
        self.work: list[asyncio.Future[None]] = []
        self.receiver: Receiver

    async def subscribe(self, _: str, receiver: Receiver) -> None:
        """Listen."""
        self.receiver = receiver

    async def api(self, *_: object) -> dict[str, object]:
        """Tell of a stream."""
        state = dict.fromkeys(("messages", "bytes", "first_seq", "last_seq"), 0)
        return {"config": {"name": "s"}, "created": TIME, "state": state}

    def publish(self, subject: str, body: bytes) -> None:
        """Hear an answer."""
        self.said.append((subject, body))

    def events(self, event: str, _: str) -> None:
        """Take note."""
        self.told.append(event)

    def spawn(self, work: Awaitable[None]) -> None:
        """Do what was asked for."""
        self.work.append(asyncio.ensure_future(work))

    async def ask(self, reply: str, body: bytes) -> None:
        """Let a question come, and wait until it was looked at."""
        self.receiver(b"", reply.encode(), body, None)
        await asyncio.gather(*self.work)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        pytest.param("_INBOX.Xy7.12", True, id="without-keys"),
        pytest.param("_INBOX_b.node.0f3a.1c", True, id="with-keys"),
        pytest.param("_INBOX_a-site_2.admin.0f3a", True, id="odd-site"),
        pytest.param("_INBOX", False, id="no-inbox-of-anybody"),
        pytest.param("_INBOX.", False, id="empty-token"),
        pytest.param("_INBOX_b.node.*", False, id="any-token"),
        pytest.param("_INBOX_b.>", False, id="all-tokens"),
        pytest.param("_INBOX.a b", False, id="a-reply-subject-behind-it"),
        pytest.param("_INBOX.a\r\nPUB x 0", False, id="a-command-behind-it"),
        pytest.param("_INBOX.\u00e4", False, id="no-ascii"),
        pytest.param("_R_.abc.def", False, id="of-an-import"),
        pytest.param("sbx.t.hub.task.m", False, id="a-task"),
        pytest.param("sbx.t.hub.done.m.x", False, id="a-done-record"),
        pytest.param("$JS.API.STREAM.DELETE.SBX_t_AT_hub", False, id="the-end-of-a-stream"),
        pytest.param("$JS.ACK.SBX_t_AT_hub.run_m.1.1.1.1.0", False, id="an-ack"),
        pytest.param("$KV.SBX_t_AT_hub.topology", False, id="the-topology"),
    ],
)
async def test_answers_go_to_inboxes(subject: str, expected: bool) -> None:
    """Who asks chooses the subject of the answer, but the answerer's rights are not lent to him."""
    line, asked = Line(), list[bytes]()

    async def answering(question: bytes) -> bytes:
        asked.append(question)
        return b"answer"

    await answer_on(cast("Link", line), "ctl", answering)
    await line.ask(subject, b"question")

    assert is_inbox(subject) == expected
    assert line.said == ([(subject, b"answer")] if expected else [])
    assert asked == ([b"question"] if expected else [])
    assert line.told == ([] if expected else ["answer_withheld"])


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        pytest.param({"site": "b", "created": TIME}, [TIME], id="first-claim"),
        pytest.param({"site": "b", "created": ""}, [""], id="who-has-none-yet"),
        pytest.param({"site": "hub", "created": ""}, [TIME], id="our-own-name"),
        pytest.param({"site": "b", "created": "any body"}, [], id="no-time"),
        pytest.param({"site": "b", "created": TIME + "\n"}, [], id="no-time-alone"),
        pytest.param({"site": "z", "created": TIME}, [], id="no-site"),
        pytest.param("junk", [], id="no-claim"),
    ],
)
async def test_a_claim_is_answered_with_a_time(question: object, expected: list[str]) -> None:
    """What goes out again as an answer of the hub's is the time of a stream, or nothing."""
    line = Line()
    await claim(cast("Link", line), TOPOLOGY, HUB)
    await line.ask("_INBOX_b.node.x.1", msgspec.json.encode(question))

    assert [body.decode() for _, body in line.said] == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param("$JS.ACK.SBX_t_AT_a.run_m.1.7.7.1723333333.0", True, id="as-it-is"),
        pytest.param("$JS.ACK.a.h4sh.SBX_t_AT_a.run_m.1.7.7.17.0", True, id="as-it-will-be"),
        pytest.param("$JS.ACK.a.h4sh.SBX_t_AT_a.run_m.1.7.7.17.0.x", True, id="with-a-token"),
        pytest.param("$JS.ACK.SBX_t_AT_a.run_n.1.7.7.17.0", False, id="another-module"),
        pytest.param("$JS.ACK.SBX_u_AT_a.run_m.1.7.7.17.0", False, id="another-topology"),
        pytest.param("$JS.ACK.SBX_t_AT_a.run_m.*.7.7.17.0", False, id="all-of-them"),
        pytest.param("$JS.ACK.SBX_t_AT_a.run_m.x.7.7.17.0", False, id="no-number"),
        pytest.param("$JS.ACK.SBX_t_AT_a.run_m", False, id="short"),
    ],
)
def test_acks_are_of_our_consumer(reply: str, expected: bool) -> None:
    """A message in the inbox of a pull cannot have us acknowledge what is not ours."""
    assert (OURS.fullmatch(reply.encode()) is not None) == expected
