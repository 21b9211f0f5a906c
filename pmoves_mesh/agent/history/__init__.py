"""Telling of the past: a process of its own replays the stream, so that nothing of the agent waits for it."""
