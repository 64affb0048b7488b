"""How often the broker is told that a delivery is still being worked on."""

from scalebox_actors.broker.client import ApiError, NoResponders
from scalebox_actors.broker.link import Link
from scalebox_actors.broker.streams import NS
from scalebox_actors.limits import HEARTBEAT
from scalebox_actors.names import Names


async def beat_interval(link: Link, names: Names, consumer: str) -> float:
    """Return how often to beat: a third of the `ack_wait` that an operator gave the consumer."""
    try:
        info = await link.api(f"CONSUMER.INFO.{names.stream}.{consumer}")
    except (ApiError, NoResponders):
        return HEARTBEAT  # it is made again with our own
    config = info["config"]
    wait = config.get("ack_wait") if isinstance(config, dict) else None
    return min(HEARTBEAT, wait / NS / 3) if isinstance(wait, int) and wait > 0 else HEARTBEAT
