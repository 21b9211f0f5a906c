"""The health of this node's services: checks, what makes them, reports of their own, maintenance."""
