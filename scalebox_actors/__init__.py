"""A container per message, over several data centres: an asyncio actor system on NATS JetStream.

What the author of a function module needs is here; everything else is the engine's.
"""

from scalebox_actors.contract import Emission
from scalebox_actors.message import Message

__all__ = ["Emission", "Message"]
__version__ = "0.1.0"
