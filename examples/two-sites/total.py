"""The last module of the pipeline: an async function in the node instead of a container."""

import json
from typing import Protocol


class Joined(Protocol):
    """What we need of a message that `gather:` joined."""

    @property
    def body(self) -> bytes:
        """`{"group": …, "count": …, "members": [body, …]}`."""
        ...


async def add(message: Joined) -> bytes:
    """Add up the counts of all parts."""
    return str(sum(int(member) for member in json.loads(message.body)["members"])).encode()
