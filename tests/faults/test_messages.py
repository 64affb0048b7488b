"""Faults of messages: malformed ones and ones at the limits, from a client that obeys nothing."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from faults.process import NodeProcess, until
from faults.stage import Stage, show
from faults.workload import STAMP, check, pipeline, shell, topology

from scalebox_actors.limits import ARGUMENT_BYTES, HEADER_BLOCK_BYTES, MIB

DRAIN = 40.0
MAX_PAYLOAD = MIB
BODY = MAX_PAYLOAD - HEADER_BLOCK_BYTES
BAD = "bad_message"


class RawClient:
    """Speaks the NATS protocol as it is told, also what no client library would send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def publish(self, subject: str, body: bytes, block: bytes = b"") -> dict[str, object]:
        """Publish with a header block of any bytes and return what the stream answers."""
        if block:
            sizes = f"{len(block)} {len(block) + len(body)}"
            line = f"HPUB {subject} raw.answer {sizes}\r\n".encode()
        else:
            line = f"PUB {subject} raw.answer {len(body)}\r\n".encode()
        self._writer.write(line + block + body + b"\r\n")
        await self._writer.drain()
        while True:
            try:
                told = await asyncio.wait_for(self._reader.readline(), 5)
            except ConnectionError:
                told = b""
            words = told.split()
            if not words:
                return {"closed": True}
            if words[0] == b"PING":
                self._writer.write(b"PONG\r\n")
            elif words[0] == b"-ERR":
                return {"error": told.decode()}
            elif words[0] in (b"MSG", b"HMSG"):
                payload = await self._reader.readexactly(int(words[-1]) + 2)
                if words[0] == b"HMSG":
                    return {"status": payload[9:12].decode()}
                answer: dict[str, object] = json.loads(payload)
                return answer


@contextlib.asynccontextmanager
async def raw(url: str) -> AsyncIterator[RawClient]:
    """Connect without any client library."""
    host, _, port = url.rpartition("//")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        await reader.readline()  # INFO
        options = {"verbose": False, "headers": True, "no_responders": True, "echo": False}
        connect = json.dumps(options).encode()
        writer.write(b"CONNECT " + connect + b"\r\nSUB raw.answer 1\r\nPING\r\n")
        await reader.readline()  # PONG
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def block(*lines: bytes) -> bytes:
    """Return a header block of these lines."""
    return b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


MALFORMED = {
    "id-with-space": block(b"Nats-Msg-Id: a b"),
    "id-with-dot": block(b"Nats-Msg-Id: a.b"),
    "id-with-star": block(b"Nats-Msg-Id: a*"),
    "id-too-long": block(b"Nats-Msg-Id: " + b"x" * 129),
    "id-reserved": block(b"Nats-Msg-Id: _reserved"),
    "id-not-ascii": block("Nats-Msg-Id: é".encode()),
    "id-repeated": block(b"Nats-Msg-Id: q1", b"Nats-Msg-Id: q2"),
    "hop-over": block(b"Sbx-Hop: 65"),
    "hop-negative": block(b"Sbx-Hop: -1"),
    "hop-huge": block(b"Sbx-Hop: " + b"9" * 99),
    "hop-wide-digit": block("Sbx-Hop: \uff11".encode()),
    "hop-repeated": block(b"Sbx-Hop: 1", b"Sbx-Hop: 2"),
    "root-bad": block(b"Sbx-Root: a b"),
    "from-bad": block(b"Sbx-From-Module: A B"),
    "user-no-json": block(b"Sbx-Headers: {"),
    "user-list": block(b"Sbx-Headers: []"),
    "user-65": block(b"Sbx-Headers: " + json.dumps({f"h{n}": "" for n in range(65)}).encode()),
    "user-long": block(b"Sbx-Headers: " + json.dumps({"h": "v" * 257}).encode()),
    "version-no-number": block(b"Sbx-Version: one"),
    "line-without-colon": block(b"nonsense"),
    "name-empty": block(b": x"),
    "space-before-colon": block(b"Nats-Msg-Id : x"),
    "no-end": b"NATS/1.0\r\nNats-Msg-Id: x9\r\n",
    "nul": block(b"Sbx-Parent: a\0b"),
    **{f"bytes-{n}": b"NATS/1.0"[:n] for n in (1, 4, 7, 8)},
}
"""Name to the header block of a message that can never be a task."""


async def test_malformed_messages_are_buried_and_hold_nobody_up(stage: Stage) -> None:
    """F25: every malformed message is a dead letter without a run; good ones between them flow."""
    roots = [f"r{n}" for n in range(5)]
    await stage.deploy(topology("malformed", pipeline(stage.witness, pause=0.02)))
    node = stage.node()
    await node.ready()
    refused, stored = {}, []
    async with raw(stage.server.url) as client:
        for name, headers in MALFORMED.items():
            answer = await client.publish(stage.names.task("calc"), name.encode(), headers)
            if "seq" in answer:
                stored.append(name)
            else:
                refused[name] = answer
    await stage.send("split", roots)
    took = await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    bodies = await stage.letters("calc")
    show("F25", stored=len(stored), refused=sorted(refused), drained=took)

    assert sorted(bodies) == sorted(stored)
    check(audit, roots, dead=audit.dead)
    assert set(audit.dead.values()) == {BAD}
    assert audit.witness.runs.keys() >= {("split", root) for root in roots}
    assert sum(audit.witness.runs.values()) == len(roots) * 41
    assert len(stage.nodes) == 1
    assert node.exit_code is None


async def test_text_that_is_no_argument_is_buried_unrun(stage: Stage) -> None:
    """F25, F26: a body that is no UTF-8, holds NUL or exceeds an argument is never run."""
    module = {"image": "none", "command": shell(STAMP), "env": {"WITNESS": str(stage.witness)}}
    await stage.deploy(topology("arguments", {"one": module}))
    await stage.node().ready()
    bodies = {
        "bytes": b"\xff\xfe",
        "nul": b"a\0b",
        "over": b"x" * (ARGUMENT_BYTES + 1),
        "at": b"y" * ARGUMENT_BYTES,
        "empty": b"",
        "shell": b"$(id) `id` ; %s {} \r\nPUB x 1\r\n",
    }
    async with raw(stage.server.url) as client:
        for name, body in bodies.items():
            headers = block(b"Nats-Msg-Id: " + name.encode())
            assert "seq" in await client.publish(stage.names.task("one"), body, headers)
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    ran = {task for _, task in audit.witness.runs}

    assert audit.dead == {f"one/{name}": BAD for name in ("bytes", "nul", "over")}
    assert ran == {"at", "empty", "shell"}
    assert audit.witness.repeats == 0


COPY = 'cp body "$WITNESS.$TASK_ID"\n'


@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_a_body_about_its_limit_runs_or_is_set_aside(stage: Stage, over: int) -> None:
    """F26: a body at its limit runs whole; one that fits no dead letter is kept and not run."""
    module = {
        "image": "none",
        "command": shell(STAMP + COPY),
        "args": ["{work}"],
        "env": {"WITNESS": str(stage.witness)},
    }
    await stage.deploy(topology("large", {"one": module}))
    node = stage.node()
    await node.ready()
    answers = {}
    async with raw(stage.server.url) as client:
        for name, most in (("limit", BODY), ("payload", MAX_PAYLOAD)):
            headers = block(b"Nats-Msg-Id: " + name.encode())
            size = most + over - (len(headers) if name == "payload" else 0)
            answers[name] = await client.publish(stage.names.task("one"), b"z" * size, headers)
    await stage.send("one", ["good"])
    await until(lambda: stage.ran("one", "good"), "a neighbour's run", seconds=DRAIN)
    await until(lambda: _settled(stage, node), "the large ones are settled", seconds=DRAIN)
    audit = await stage.audit()
    show("F26", over=over, dead=audit.dead, waiting=audit.waiting["one"])

    assert "seq" in answers["limit"]
    assert ("seq" in answers["payload"]) == (over <= 0)
    assert ("one", "payload") not in audit.witness.runs
    assert audit.waiting["one"] == (1 if over <= 0 else 0)  # no dead letter could hold it
    assert audit.dead == ({} if over <= 0 else {"one/limit": BAD})
    if over <= 0:
        assert audit.witness.runs["one", "limit"] == 1
        assert (stage.folder / "witness.limit").stat().st_size == BODY + over
    assert node.events("closed") == node.events("disconnected") == []


async def _settled(stage: Stage, node: NodeProcess) -> bool:
    """Whether each message has ended or is known to be set aside."""
    waiting = (await stage.waiting())["one"]
    return waiting <= len({event["task"] for event in node.events("task_postponed")})
