"""The functions of the pipeline over three sites."""

from scalebox_actors.message import Message

PARTS = 5


async def split(message: Message) -> list[bytes]:
    """Cut a message into parts."""
    return [b"%s.%d" % (message.body, part) for part in range(PARTS)]


async def same(message: Message) -> bytes:
    """Emit what came."""
    return message.body
