"""pmoves-mesh: hosts and services that find and trust each other, with no hard-coded address.

    from pmoves_mesh import Mesh

What programs use is imported when it is asked for, so that the command line does not wait for it.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as type checkers know it; `typing` itself takes longer than all the rest here
if TYPE_CHECKING:
    from pmoves_mesh.core.application import FileAdded, ToolExecuted, TranscriptReady
    from pmoves_mesh.sdk.changes import Change
    from pmoves_mesh.sdk.instance import Instance
    from pmoves_mesh.sdk.mesh import Mesh
    from pmoves_mesh.sdk.messages import Message
    from pmoves_mesh.sdk.registration import Registered
    from pmoves_mesh.sdk.sync import SyncMesh, SyncRegistered

__version__ = "0.1.0"
__all__ = [
    "Change",
    "FileAdded",
    "Instance",
    "Mesh",
    "Message",
    "Registered",
    "SyncMesh",
    "SyncRegistered",
    "ToolExecuted",
    "TranscriptReady",
    "__version__",
]

_WHERE = {
    "Change": "sdk.changes",
    "FileAdded": "core.application",
    "Instance": "sdk.instance",
    "Mesh": "sdk.mesh",
    "Message": "sdk.messages",
    "Registered": "sdk.registration",
    "SyncMesh": "sdk.sync",
    "SyncRegistered": "sdk.sync",
    "ToolExecuted": "core.application",
    "TranscriptReady": "core.application",
}


def __getattr__(name: str) -> object:
    """Imports what the SDK offers, at its first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
