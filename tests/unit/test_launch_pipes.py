"""Named pipes carry whole lines both ways, and neither side can hold up or confuse the other."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scalebox_actors.launch.pipes import IN, OUT, PipeClosed, Pipes

LONGEST = 1000
_PIPE_BYTES = 1024 * 1024
"""More than any pipe holds."""


@pytest.fixture
async def pipes(tmp_path: Path) -> AsyncIterator[Pipes]:
    """Return the node's ends of pipes in a folder."""
    made = Pipes.make(tmp_path, longest=LONGEST)
    yield made
    made.close()


class Program:
    """The other side: what a program does by name."""

    def __init__(self, folder: Path) -> None:
        self.reads = os.open(folder / IN, os.O_RDONLY | os.O_NONBLOCK)
        self.writes = os.open(folder / OUT, os.O_WRONLY)

    def close(self) -> None:
        """End."""
        os.close(self.reads)
        os.close(self.writes)


async def lines(pipes: Pipes, count: int) -> list[bytes | None]:
    """Wait for so many lines."""
    heard: asyncio.Queue[bytes | None] = asyncio.Queue()
    pipes.listen(heard.put_nowait)
    return [await asyncio.wait_for(heard.get(), 5) for _ in range(count)]


async def read_until(program: Program, end: bytes) -> bytes:
    """Read as the program until something came."""
    got = bytearray()
    async with asyncio.timeout(10):
        while not got.endswith(end):
            await asyncio.sleep(0)
            try:
                got += os.read(program.reads, 65536)
            except BlockingIOError:
                continue
    return bytes(got)


async def test_both_ways(pipes: Pipes, tmp_path: Path) -> None:
    """What the node says the program reads, and the other way round, byte for byte."""
    program = Program(tmp_path)
    await pipes.say(b"\x00\xff one\n")
    os.write(program.writes, b"half")
    os.write(program.writes, b" a line\n\nthird\xff\n")

    heard = await lines(pipes, 3)

    assert os.read(program.reads, 100) == b"\x00\xff one\n"
    assert heard == [b"half a line", b"", b"third\xff"]
    program.close()


async def test_a_long_line_is_told_and_costs_no_other(pipes: Pipes, tmp_path: Path) -> None:
    """A line over the limit comes as None, however it is cut into pieces; the next is whole."""
    program = Program(tmp_path)
    os.write(program.writes, b"x" * (LONGEST + 1) + b"\nnext\n" + b"y" * LONGEST + b"\n")

    heard = await lines(pipes, 3)

    assert heard == [None, b"next", b"y" * LONGEST]
    program.close()


async def test_a_full_pipe_is_waited_for(pipes: Pipes, tmp_path: Path) -> None:
    """More than a pipe holds arrives whole, and two who write at once do not mix."""
    program = Program(tmp_path)
    first = asyncio.create_task(pipes.say(b"a" * _PIPE_BYTES))
    second = asyncio.create_task(pipes.say(b"b"))
    got = bytearray()
    while len(got) <= _PIPE_BYTES:
        await asyncio.sleep(0)
        try:
            got += os.read(program.reads, 65536)
        except BlockingIOError:
            continue
    await asyncio.gather(first, second)

    assert bytes(got) == b"a" * _PIPE_BYTES + b"b"
    program.close()


async def test_close_tells_who_waits(pipes: Pipes) -> None:
    """Whoever waits for room in a pipe is told that it was closed, and so is who comes later."""
    waiting = asyncio.create_task(pipes.say(b"a" * _PIPE_BYTES))
    await asyncio.sleep(0)
    pipes.close()

    with pytest.raises(PipeClosed):
        await waiting
    with pytest.raises(PipeClosed):
        await pipes.say(b"b")


async def test_who_gives_up_leaves_no_half_line(pipes: Pipes, tmp_path: Path) -> None:
    """A writer that is cancelled while the pipe is full has said all of it, or the next is lost."""
    program = Program(tmp_path)
    impatient = asyncio.create_task(pipes.say(b"a" * _PIPE_BYTES + b"\n"))
    await asyncio.sleep(0)
    impatient.cancel()
    pipes.post(b"next\n")
    got = await read_until(program, b"next\n")

    assert got == b"a" * _PIPE_BYTES + b"\nnext\n"
    program.close()


async def test_what_is_posted_arrives_in_order(pipes: Pipes, tmp_path: Path) -> None:
    """Lines that are posted go out by themselves, in their order, also through a full pipe."""
    program = Program(tmp_path)
    expected = b"".join(b"%d %s\n" % (n, b"x" * 1000) for n in range(500))
    for line in expected.splitlines(keepends=True):
        pipes.post(line)
    got = await read_until(program, b"499 " + b"x" * 1000 + b"\n")

    assert got == expected
    program.close()


async def test_hang_up_ends_the_programs_input(pipes: Pipes, tmp_path: Path) -> None:
    """After a hang-up the program reads the end of its input; its last words are still heard."""
    program = Program(tmp_path)
    await pipes.say(b"bye\n")
    pipes.hang_up()
    os.write(program.writes, b"done\n")

    assert os.read(program.reads, 100) == b"bye\n"
    assert os.read(program.reads, 100) == b""
    assert await lines(pipes, 1) == [b"done"]
    with pytest.raises(PipeClosed):
        pipes.post(b"more\n")
    program.close()


async def test_drain_takes_what_is_there(pipes: Pipes, tmp_path: Path) -> None:
    """Whole lines of a program that has ended are heard at once, without a turn of the loop."""
    program = Program(tmp_path)
    os.write(program.writes, b"one\ntwo\ncut o")
    program.close()
    heard: list[bytes | None] = []
    pipes.listen(heard.append)
    pipes.drain()

    assert heard == [b"one", b"two"]


async def test_a_side_that_goes_and_comes(pipes: Pipes, tmp_path: Path) -> None:
    """A program that dies takes nothing with it; the one after it is heard on the same pipes."""
    first = Program(tmp_path)
    os.write(first.writes, b"cut")
    first.close()
    second = Program(tmp_path)
    os.write(second.writes, b" off\n")

    heard = await lines(pipes, 1)

    assert heard == [b"cut off"]
    second.close()


def test_pipes_are_made_anew(tmp_path: Path) -> None:
    """Whatever lies in the folder under these names, a link above all, is not opened."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / IN).symlink_to(secret)
    (folder / OUT).write_text("old")

    async def make() -> None:
        Pipes.make(folder, longest=LONGEST).close()

    asyncio.run(make())

    assert all(stat.S_ISFIFO((folder / name).lstat().st_mode) for name in (IN, OUT))
    assert secret.read_text() == "secret"


async def test_closed_pipes_are_not_listened_to(pipes: Pipes, tmp_path: Path) -> None:
    """Their numbers may be those of another file by then, which would be read away."""
    pipes.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(PipeClosed):
            pipes.listen(lambda _: None)
    finally:
        os.close(other)
