"""The functions of the crash scenarios."""

from scalebox_actors.message import Message


async def twice(message: Message) -> list[bytes]:
    """Emit two outputs."""
    return [message.body + b"-1", message.body + b"-2"]


async def once(message: Message) -> bytes:
    """Emit what came."""
    return message.body
