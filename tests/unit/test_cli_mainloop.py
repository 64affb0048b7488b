"""The process of a node: on uvloop, with a collector that seldom looks."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from scalebox_actors import garbage
from scalebox_actors.cli import mainloop


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    """Leave the collector of the test process as it was."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


async def _kind() -> str:
    return type(asyncio.get_running_loop()).__module__


def test_it_runs_on_uvloop_and_looks_for_garbage_now_and_then() -> None:
    """What a node makes for a task goes by itself; cycles are found all the same."""
    assert mainloop.run(_kind()).startswith("uvloop")
    assert gc.isenabled()
    assert gc.get_threshold()[0] == garbage.YOUNG
    assert gc.get_freeze_count() > 0


def test_what_main_raises_is_raised() -> None:
    """An error is not lost on its way out."""

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mainloop.run(fail())
