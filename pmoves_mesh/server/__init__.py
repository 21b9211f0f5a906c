"""The nats-server that a node runs itself where no other is given: its program, settings and process."""
