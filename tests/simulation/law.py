"""What holds in a mesh by the words that reached its stream, as somebody sees who reads them there.

It shares no code with the projection: it is what the verdict is measured by. It sees each event at
the moment at which the broker takes it, and remembers no more than who may say what, and who did.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from trust import Identity, number_of

from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.model import InstanceKey

HOSTILE: Final = "hostile."
"""How the ids of messages begin that nobody may believe."""
_DECREES: Final = {"service.registry.evicted", "mesh.trust.revoked.v1", "mesh.trust.rotated.v1"}


class Law:
    """The decrees, and the statements of those who do not sign.

    Attributes:
        roots: the CAs that hold, the issuing one first, by their numbers.
        believed: that ever held.
        retired: those that no longer do, and since which position.
        revoked: fingerprints of revoked certificates, and since which position.
        identities: everybody who ever signed, by fingerprint.
        unsigned: the instances of nodes that do not sign, and whether each is there.
        expired: what a witness ever removed.
        faded: of those nodes that do not sign, what a witness removed since they were last heard.
        cloned: nodes whose identity was copied.
        refusable: positions at which replicas may refuse an event.
        rejoined: labels of hosts that were given the CAs of their day, and knew no earlier ones, or lost the
            disk on which they had written what they learned of those.
        decreed: the position of the latest decree in this stream.
        vanished: nodes whose host is gone for good.
        begun_anew: the stream was made anew or restored, so what only it remembered may be forgotten.
    """

    def __init__(self) -> None:
        self.roots: tuple[int, ...] = (0,)
        self.retired: dict[int, int] = {}
        self.revoked: dict[str, int] = {}
        self.identities: dict[str, Identity] = {}
        self.unsigned: dict[InstanceKey, bool] = {}
        self.expired: set[InstanceKey] = set()
        self.faded: set[InstanceKey] = set()
        self.cloned: set[str] = set()
        self.refusable: set[int] = set()
        self.rejoined: set[str] = set()
        self.decreed = 0
        self.vanished: set[str] = set()
        self.begun_anew = False
        self._words = 0
        self._evictions: dict[tuple[str, str, str | None], tuple[int, bool]] = {}
        self._evictors: dict[tuple[str, str, str | None], Identity] = {}
        self._revokers: dict[str, Identity] = {}

    def is_evicted(self, key: InstanceKey) -> bool:
        """Returns whether the latest word about an instance, or about its service there, evicts it."""
        words = [self._evictions.get((key.service, key.node, one), (0, False)) for one in (key.id, None)]
        return max(words)[1]

    def is_unsure(self, key: InstanceKey) -> bool:
        """Returns whether an eviction may be void: its stream is gone, and so is the CA of who said it.

        Nothing shows any more that it was said while that CA held.
        """
        words = [self._evictors.get((key.service, key.node, one)) for one in (key.id, None)]
        return self.begun_anew and any(word is not None and not self.holds(word) for word in words)

    def is_void(self, fingerprint: str) -> bool:
        """Returns whether the same may be so of the revocation of a certificate."""
        return self.begun_anew and not self.holds(self._revokers[fingerprint])

    def holds(self, identity: Identity) -> bool:
        """Returns whether anybody believes what an identity signs now."""
        return identity.fingerprint not in self.revoked and identity.root in self.roots

    def is_disowned(self, name: str) -> bool:
        """Returns whether a certificate of a node was ever revoked."""
        return any(self.identities[one].name == name for one in self.revoked if one in self.identities)

    def take(self, sealed: SealedEvent, position: int) -> None:
        """Takes in an event that the stream has just taken."""
        signer = self.identities.get(envelope.signer_of(sealed) or "")
        hostile = sealed.message_id.startswith(HOSTILE)
        if hostile or (signer is not None and not self.holds(signer)):
            self.refusable.add(position)
            return
        body = msgspec.json.decode(sealed.payload, type=dict[str, Any])
        if signer is None:
            self._take_unsigned(sealed.subject, body)
            return
        if sealed.subject in _DECREES:
            self.decreed = position
        match sealed.subject:
            case "service.registry.evicted":
                key = (body["service"], body["node"], body.get("id"))
                self._words += 1
                self._evictions[key] = self._words, not body["lifted"]
                self._evictors[key] = signer
            case "service.registry.expired":
                gone = InstanceKey(body["service"], body["node"], body["id"])
                self.expired.add(gone)
                if gone in self.unsigned:
                    self.faded.add(gone)
            case "mesh.trust.revoked.v1":
                for fingerprint in body["fingerprints"]:
                    self.revoked.setdefault(fingerprint, position)
                    self._revokers[fingerprint] = signer
            case "mesh.trust.rotated.v1":
                self.roots = tuple(map(number_of, body["roots"]))
                self.retired = {
                    number_of(one["certificate"]): one["position"] or position for one in body["retired"]
                }

    def _take_unsigned(self, subject: str, body: dict[str, Any]) -> None:
        node = body["data"]["node"] if "data" in body else body["node"]
        self.faded = {key for key in self.faded if key.node != node}
        if "data" in body:
            data = body["data"]
            key = InstanceKey(data["name"], data["node"], str(data["port"]))
            self.unsigned[key] = subject == "service.registry.registered"
