"""NATS microservices: the agent as one of them, and the services that are some."""
