"""The server of a store for as long as somebody needs it, whoever of them has started it.

The first command that needs one starts it, others use it, and it ends with the command that started
it. Then one of those that are left starts it again, on the same port with all that it has stored:
they see a lost connection and go on.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from scalebox_actors.errors import Unavailable
from scalebox_actors.lockfile import is_held
from scalebox_actors.server import EmbeddedServer, running

BEGINNING = 15.0
"""So long the store may be somebody's who has not said yet where its server is."""
_LOOK = 0.25
_AGAIN = 1.0

log = logging.getLogger(__name__)


@asynccontextmanager
async def hosted(server: EmbeddedServer) -> AsyncIterator[str]:
    """Have a store's server run as long as the context lasts; yields where it is reached.

    `server` is started if nobody else runs one, now or later. Raises Unavailable if it does not
    come up.
    """
    keeper: asyncio.Task[None] | None = None
    try:
        url = await _found(server)
        keeper = asyncio.create_task(_keep_up(server))
        yield url
    finally:
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        await asyncio.to_thread(server.stop)


async def _found(server: EmbeddedServer) -> str:
    """Return where the store's server is, which is ours if there was none."""
    began = time.monotonic()
    while True:
        url = None if server.ephemeral else running(server.store)
        if url is not None:
            return url
        try:
            return await server.begin()
        except Unavailable:
            # Others, typed at the same moment, were quicker, and their server has no port yet.
            if not is_held(server.store / "lock") or time.monotonic() - began > BEGINNING:
                raise
        await asyncio.sleep(_LOOK)


async def _keep_up(server: EmbeddedServer) -> None:
    """Start the server whenever nobody runs it; it comes back on its port with all it has."""
    while True:
        try:
            if server.pid:
                code = await server.wait()
                log.error("server_died", extra={"exit_code": code, "store": str(server.store)})
            else:
                await _left(server)
            await server.begin()
        except (Unavailable, OSError) as error:  # a full disk is one: there may be room again
            if not is_held(server.store / "lock"):  # else another one was quicker
                log.error("server_not_started", extra={"why": str(error)})  # noqa: TRY400 - no bug
            await asyncio.sleep(_AGAIN)
        else:
            log.info("server_runs_again", extra={"store": str(server.store)})


async def _left(server: EmbeddedServer) -> None:
    """Wait until whoever runs the store's server has ended, and left one that we can run.

    What `sbx-actor server` runs has other rights and links, so only that command starts it again.
    """
    told = False
    while is_held(server.store / "lock") or not server.is_as_before():
        if not (told or is_held(server.store / "lock")):
            told = True
            why = "start it again with the command that ran it, or end this one"
            log.warning("server_gone", extra={"store": str(server.store), "why": why})
        await asyncio.sleep(_LOOK)
