"""What the CA's host tells the other hosts of a cluster: whose certificates hold; and their copy of it.

It is the public part of the ledger, as far as a nats-server has to know it: names and keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from pmoves_mesh.core.names import Label
from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.errors import StoreError

COPY_FILE: Final = "issued.json"
HOLDERS_MAX: Final = 16_384

Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Holder(Struct, frozen=True, kw_only=True):
    """A certificate that was not revoked.

    Attributes:
        name: the last part of its SPIFFE ID.
        key_id: SHA-256 of its public key (DER SubjectPublicKeyInfo), in hex.
        fingerprint: SHA-256 of the certificate (DER), in hex.
        not_after_ms: unix milliseconds.
    """

    kind: SignerKind
    name: Label
    key_id: Digest
    fingerprint: Digest
    not_after_ms: int

    def holds(self, now_ms: int) -> bool:
        """Returns whether it is not past its end."""
        return now_ms < self.not_after_ms


class IssuedList(Struct, frozen=True, kw_only=True):
    """Whose certificates hold.

    Attributes:
        owner: the node on whose host the CA is.
        holders: in any order.
    """

    owner: Label
    holders: Annotated[tuple[Holder, ...], Meta(max_length=HOLDERS_MAX)]


class IssuedCopy:
    """The list as this host was told it last, in one file, so that it starts while the CA's host is away.

    What was revoked since is left out of it from the moment at which this host learns that.
    """

    def __init__(self, path: Path) -> None:
        """Takes the file; there need not be one."""
        self._path = path
        self._list: IssuedList | None = None
        self._revoked: set[str] = set()
        self._version = 0
        self._kept = False

    def load(self) -> bool:
        """Reads the file, and returns whether there was one; one that is no use counts as none. Blocks."""
        try:
            self._list = msgspec.json.decode(self._path.read_bytes(), type=IssuedList)
        except (OSError, msgspec.MsgspecError):
            return False
        self._kept = True
        return True

    def take(self, told: IssuedList) -> bool:
        """Takes a newer list, and returns whether it says something else. Blocks.

        Raises:
            StoreError: if it cannot be kept; it holds all the same, and is kept when it is told again.
        """
        changed = told != self._list
        if not changed and self._kept:
            return False
        if changed:
            self._list, self._kept = told, False
            self._version += 1
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.json.encode(told))
            temporary.replace(self._path)
        except OSError as error:
            raise StoreError(str(self._path), f"cannot be written ({error.strerror})") from None
        self._kept = True
        return changed

    @property
    def owner(self) -> str:
        """The node on whose host the CA is; empty while nothing is known."""
        return "" if self._list is None else self._list.owner

    def version(self) -> int:
        """Returns what tells one state of it from another."""
        return self._version

    def revoke(self, fingerprints: Iterable[str], now_ms: int) -> None:
        """Leaves out what was revoked, and every other certificate of the same key; when does not matter."""
        del now_ms
        revoked = set(fingerprints)
        self._revoked |= {one.key_id for one in self._holders() if one.fingerprint in revoked}

    def certificates(self) -> list[Holder]:
        """Returns what still holds, as far as this host knows."""
        return [one for one in self._holders() if one.key_id not in self._revoked]

    def _holders(self) -> tuple[Holder, ...]:
        return () if self._list is None else self._list.holders
