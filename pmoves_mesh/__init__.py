"""pmoves-mesh: hosts and services that find and trust each other, with no hard-coded address.

    from pmoves_mesh import Mesh

What programs use is imported when it is asked for, so that the command line does not wait for it.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as type checkers know it; `typing` itself takes longer than all the rest here
if TYPE_CHECKING:
    from pmoves_mesh.sdk.changes import Change
    from pmoves_mesh.sdk.instance import Instance
    from pmoves_mesh.sdk.mesh import Mesh
    from pmoves_mesh.sdk.messages import Message
    from pmoves_mesh.sdk.registration import Registered
    from pmoves_mesh.sdk.sync import SyncMesh, SyncRegistered

__version__ = "0.1.0"
__all__ = [
    "Change",
    "Instance",
    "Mesh",
    "Message",
    "Registered",
    "SyncMesh",
    "SyncRegistered",
    "__version__",
]

_WHERE = {
    "Change": "changes",
    "Instance": "instance",
    "Mesh": "mesh",
    "Message": "messages",
    "Registered": "registration",
    "SyncMesh": "sync",
    "SyncRegistered": "sync",
}


def __getattr__(name: str) -> object:
    """Imports what the SDK offers, at its first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.sdk.{_WHERE[name]}"), name)
