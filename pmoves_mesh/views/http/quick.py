"""The two questions that are asked most, answered in front of aiohttp: where a service is, who can do what.

Whoever asks them as plainly as clients do, in one piece and with no header that could matter, gets the
same bytes that the routes would send, kept from one move of the registry to the next. Everything else,
and whatever is no plain success, is left to the routes.

Source: RFC 9112 (HTTP/1.1 messages); RFC 9110 section 6.6.1 (Date).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import formatdate
from typing import Final, NamedTuple

from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.where import ANYWHERE
from pmoves_mesh.errors import InvalidFieldError, RateLimitedError
from pmoves_mesh.views.http import answers, choosing, inputs, reads
from pmoves_mesh.views.http.facade import Facade
from pmoves_mesh.views.http.limits import Limits

REQUEST_BYTES_MAX: Final = 4096

_KEPT_BYTES_MAX: Final = 8 * 1024 * 1024
_ENTRY_BYTES: Final = 500
_ANSWER_BYTES_MAX: Final = 64 * 1024

# A request is taken only if all of it is exactly this: nothing here has to guess where it ends, or what
# a header that is not listed would have changed.
_LINE: Final = (
    rb"(?i:User-Agent|Accept|Accept-Encoding|Accept-Language|Content-Type|Host):[ \t]*+[\x20-\x7e]*+\r\n"
    rb"|(?i:Content-Length): ?[0-9]{1,4}\r\n"
    rb"|(?i:Connection: ?keep-alive)\r\n"
)
_REQUEST: Final = re.compile(
    rb"(?:GET /api/services/(?P<name>[A-Za-z0-9-]{1,63})|POST /api/discover) HTTP/1\.1\r\n"
    rb"(?P<lines>(?:%b){1,8})\r\n(?P<body>.*)" % _LINE,
    re.DOTALL,
)


class _Kept(NamedTuple):
    """An answer but for its date, and what it is counted as."""

    method: str
    route: str
    before: bytes
    after: bytes


class QuickAnswers:
    """Answers plain requests of the two kinds.

    Attributes:
        kept: how many answers are held ready.
    """

    def __init__(self, facade: Facade, limits: Limits) -> None:
        self._facade = facade
        self._limits = limits
        self._of: tuple[Registry, int, int] = (facade.replica.registry, -1, -1)
        self._kept: dict[bytes, _Kept] = {}
        self._kept_bytes = 0
        # What has some capabilities is found once, for whoever asks in whichever words, and for how much.
        self._ranked: dict[tuple[str, ...], Sequence[bytes]] = {}
        self._ranked_bytes = 0
        self._date = (0, b"")

    @property
    def kept(self) -> int:
        """How many answers are held ready."""
        return len(self._kept)

    def answer(self, data: bytes, remote: str) -> bytes | None:
        """Returns the whole answer to a request; None if a route has to find it.

        Args:
            data: all that came from a client that is waiting for nothing else.
            remote: its address.
        """
        facade = self._facade
        replica = facade.replica
        if len(data) > REQUEST_BYTES_MAX or not replica.is_current:
            return None
        began_s = facade.clock.monotonic_s()
        registry = replica.registry
        # Own events that are not in the stream yet move the version alone, repetitions only the position.
        of = (registry, registry.version, registry.position)
        if self._of != of:
            self._of, self._kept, self._kept_bytes = of, {}, 0
            self._ranked, self._ranked_bytes = {}, 0
        found = self._kept.get(data) or self._find(data)
        if found is None:
            return None
        try:
            self._limits.check(remote, "read")
        except RateLimitedError:
            return None
        if facade.observe is not None:
            facade.observe(found.method, found.route, 200, facade.clock.monotonic_s() - began_s)
        return b"%b%b%b" % (found.before, self._now(), found.after)

    def _find(self, data: bytes) -> _Kept | None:
        """Returns the answer to a request, and keeps it; None if it is for a route."""
        request = _REQUEST.fullmatch(data)
        if request is None or not _is_whole(request["lines"], request["body"]):
            return None
        name = request["name"]
        if (name is None) == (not request["body"]):
            return None
        if name is not None:
            method, route = "GET", "/api/services/{name}"
            parts = reads.found_at_once(self._facade, name.decode().lower())
        else:
            method, route = "POST", "/api/discover"
            parts = self._chosen(request["body"])
        if parts is None:
            return None
        found = _Kept(method, route, *self._rendered(parts))
        self._keep(data, found)
        return found

    def _chosen(self, body: bytes) -> Sequence[bytes] | None:
        try:
            wanted = inputs.choice(body)
        except InvalidFieldError:
            return None
        plain = wanted.where == ANYWHERE and wanted.prefer == "local"
        ranked = self._ranked.get(wanted.capabilities) if plain else None
        if ranked is None:
            ranked = choosing.ranked_at_once(self._facade, wanted)
            if plain:
                self._keep_ranked(wanted.capabilities, ranked)
        return choosing.cut(ranked, wanted.limit) if ranked else None

    def _keep_ranked(self, capabilities: tuple[str, ...], ranked: Sequence[bytes]) -> None:
        size = _ENTRY_BYTES + sum(map(len, ranked))
        if self._ranked_bytes + size > _KEPT_BYTES_MAX:
            self._ranked, self._ranked_bytes = {}, 0
        self._ranked[capabilities] = ranked
        self._ranked_bytes += size

    def _rendered(self, parts: Sequence[bytes]) -> tuple[bytes, bytes]:
        """Returns an answer in two pieces, between which its date belongs."""
        body = b"".join(parts)
        position = self._facade.replica.position
        before = (
            "HTTP/1.1 200 OK\r\n"
            f"Content-Type: {answers.JSON}\r\n"
            f'Etag: "{answers.tag_of(parts)}"\r\n'
            f"{answers.POSITION}: {position}\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Date: "
        )
        lasting = "".join(f"{name}: {value}\r\n" for name, value in answers.LASTING.items())
        return before.encode(), f"\r\n{lasting}\r\n".encode() + body

    def _keep(self, data: bytes, found: _Kept) -> None:
        size = len(data) + len(found.before) + len(found.after)
        if size > _ANSWER_BYTES_MAX:
            return
        if self._kept_bytes + size > _KEPT_BYTES_MAX:
            self._kept, self._kept_bytes = {}, 0
        self._kept[data] = found
        self._kept_bytes += size

    def _now(self) -> bytes:
        """Returns the time as HTTP writes it, made once a second."""
        second = self._facade.clock.now_ms() // 1000
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]


def _is_whole(lines: bytes, body: bytes) -> bool:
    """Returns whether a request names one host, and its body is as long as it says."""
    folded = b"\r\n" + lines.lower()
    if folded.count(b"\r\nhost:") != 1:
        return False
    lengths = folded.count(b"\r\ncontent-length:")
    if lengths == 0:
        return not body
    said = folded.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return lengths == 1 and int(said) == len(body)
