"""A container per message, over several data centres: an asyncio actor system on NATS JetStream.

Nothing is imported here: the shepherd of the process runtime starts without any site package.
"""

__version__ = "0.1.0"
