"""The event log on NATS JetStream: the only package that imports nats."""
