"""The stage that every fault test stands on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from faults.stage import Stage, staged

SECONDS_PER_TEST = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder: it breaks things, and it takes its time."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.timeout(SECONDS_PER_TEST))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A nats-server and room for nodes that run programs as processes."""
    async with staged(tmp_path) as opened:
        yield opened
