"""The agent: one per host; it owns this node's registrations and serves everybody's."""
