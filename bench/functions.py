"""Functions that do nothing, so that what is measured is the engine."""

import asyncio

from scalebox_actors.message import Message


async def relay(message: Message) -> bytes:
    """Pass the body on."""
    return message.body


async def swallow(message: Message) -> None:
    """End here."""
    del message


async def hold(message: Message) -> None:
    """Keep a slot for as long as the node lives."""
    del message
    await asyncio.sleep(24 * 3600)
