"""Whether a container's process still runs, as this host knows without any engine."""

from __future__ import annotations

import os


def is_alive(pid: int) -> bool:
    """Returns whether a process of this host runs; it may be anybody's.

    Source: kill(2): signal 0 is sent to nobody, and whoever may not send it learns that there is somebody.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
