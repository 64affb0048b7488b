"""The baseline of function mode: the least that could be called exactly-once, by hand.

Two modules in one loop: pull as many as there is room for, name the child after its parent, write
done-record and child of all that is finished in one atomic batch, then ack and wait for the
answer. No retries, no reconnects, no heart-beats, no checks of what came, no insight: a lost answer
hangs it for ever. It knows nothing of our package.
"""

import asyncio
import base64
import hashlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.children import Job

MODULES = ("first", "second")
GROUP = 450
"""Tasks to a batch at most, of up to two messages each."""
Line = tuple[str, bytes, dict[str, str]]


class Requests:
    """Requests with one inbox and a number for each."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.inbox = client.new_inbox()
        self._open: dict[str, asyncio.Future[Msg]] = {}
        self._numbers = itertools.count()

    async def start(self) -> None:
        """Listen for answers."""
        await self.client.subscribe(f"{self.inbox}.*", cb=self._answered)

    async def ask(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> Msg:
        """Publish and wait for the answer."""
        number = str(next(self._numbers))
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        await self.client.publish(subject, body, reply=f"{self.inbox}.{number}", headers=headers)
        return await answer

    async def store(self, batch: str, lines: Sequence[Line]) -> None:
        """Store all lines in one atomic batch."""
        for number, (subject, body, given) in enumerate(lines, 1):
            headers = given | {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            if number == len(lines):
                told = await self.ask(subject, body, headers | {"Nats-Batch-Commit": "1"})
                if b'"error"' in told.data:
                    raise RuntimeError(told.data.decode())
            else:
                reply = f"{self.inbox}.first" if number == 1 else ""
                await self.client.publish(subject, body, reply=reply, headers=headers)

    async def _answered(self, message: Msg) -> None:
        waiting = self._open.pop(message.subject.rpartition(".")[2], None)
        if waiting is not None:
            waiting.set_result(message)


class Loop:
    """Two modules that do nothing, and one committer."""

    def __init__(self, requests: Requests, job: Job) -> None:
        name = msgspec.yaml.decode(job.topology)["topology"]
        self._requests = requests
        self._stream, self._prefix = f"SBX_{name}_AT_local", f"sbx.{name}.local"
        self._left, self._slots = job.tasks, job.slots
        self._room = dict.fromkeys(MODULES, 0)
        self._boxes: dict[str, str] = {}
        self._finished: asyncio.Queue[tuple[str, Msg]] = asyncio.Queue()
        self._acks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Work until as many tasks are acked as there are."""
        for module in MODULES:
            self._boxes[module] = self._requests.client.new_inbox()
            await self._requests.client.subscribe(self._boxes[module], cb=self._taker(module))
            await self._free(module, self._slots)
        committer = asyncio.create_task(self._commit())
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait([committer, over], return_when=asyncio.FIRST_COMPLETED)
        if committer.done():
            committer.result()
        committer.cancel()

    def _taker(self, module: str) -> Callable[[Msg], Awaitable[None]]:
        async def take(message: Msg) -> None:
            if message.reply:
                self._finished.put_nowait((module, message))

        return take

    async def _free(self, module: str, slots: int) -> None:
        """Ask for messages once a quarter of the slots is free, or nothing else will free any."""
        self._room[module] += slots
        if self._room[module] * 4 < self._slots:
            return
        count, self._room[module] = self._room[module], 0
        consumer = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.run_{module}"
        request = json.dumps({"batch": count, "expires": 60 * 10**9}).encode()
        await self._requests.client.publish(consumer, request, reply=self._boxes[module])

    async def _commit(self) -> None:
        for number in itertools.count():
            group = [await self._finished.get()]
            while len(group) < GROUP and not self._finished.empty():
                group.append(self._finished.get_nowait())
            lines = [line for module, message in group for line in self._lines(module, message)]
            await self._requests.store(f"batch{number}", lines)
            for module, message in group:
                ack = asyncio.create_task(self._ack(module, message))
                self._acks.add(ack)
                ack.add_done_callback(self._acks.discard)

    def _lines(self, module: str, message: Msg) -> list[Line]:
        given = (message.headers or {})["Nats-Msg-Id"]
        record = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-TTL": "1h"}
        lines: list[Line] = [(f"{self._prefix}.done.{module}.{given}", b"{}", record)]
        if module == MODULES[0]:
            digest = hashlib.sha256(f"{given}/second/0".encode()).digest()
            child = base64.b32encode(digest[:17])[:26].decode().lower()
            headers = {"Nats-Msg-Id": child, "Sbx-Parent": given}
            lines.append((f"{self._prefix}.task.second", message.data, headers))
        return lines

    async def _ack(self, module: str, message: Msg) -> None:
        await self._requests.ask(message.reply, b"+ACK")
        self._left -= 1
        if self._left == 0:
            self._over.set()
        await self._free(module, 1)


def run(job: Job) -> float:
    """Return the seconds in which the loop worked off `job.tasks` tasks."""
    return uvloop.run(_work(job))


async def _work(job: Job) -> float:
    client = await nats.connect(job.url)
    requests = Requests(client)
    await requests.start()
    began = time.perf_counter()
    await Loop(requests, job).run()
    seconds = time.perf_counter() - began
    await client.close()
    return seconds
