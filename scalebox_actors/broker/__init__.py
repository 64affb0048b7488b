"""The JetStream adapter; only this package knows NATS."""
