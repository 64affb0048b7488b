"""A container per message, over several data centres: an asyncio actor system on NATS JetStream."""
