"""What an engine knows of an image: whether it is there, and what it executes by itself."""

import re

import msgspec

from scalebox_actors.errors import ImageMissing
from scalebox_actors.runtimes.docker_answers import Answer, Step
from scalebox_actors.runtimes.docker_body import Program
from scalebox_actors.runtimes.docker_engine import Engine

_REFERENCE = re.compile(r"[a-zA-Z0-9][\w.:@/-]{0,500}")


class _Image(msgspec.Struct, rename="pascal"):
    id: str = ""
    config: Program | None = None


async def find_image(engine: Engine, image: str) -> bytes | None:
    """Return what the engine tells of an image, or None if it is not on this host."""
    if not _REFERENCE.fullmatch(image) or ".." in image:
        return None
    told = await engine.call(Step.OTHER, lambda: engine.request("GET", f"images/{image}/json"))
    return None if isinstance(told, Answer) else told


async def identity_of(engine: Engine, image: str) -> str:
    """Return the id of an image, or nothing if it is not on this host."""
    told = await find_image(engine, image)
    return "" if told is None else msgspec.json.decode(told, type=_Image).id


async def program_of(engine: Engine, image: str) -> Program:
    """Return what an image executes by itself; raises ImageMissing."""
    told = await find_image(engine, image)
    if told is None:
        raise ImageMissing(f"No such image: {image}")
    return msgspec.json.decode(told, type=_Image).config or Program()
