"""The two questions that are asked most, answered in front of aiohttp: where a service is, who can do what.

Whoever asks them as plainly as clients do, in one piece and with no header that could matter, gets the
same bytes that the routes would send, kept for as long as they would. Everything else, and whatever is
no plain success, is left to the routes.

Source: RFC 9112 (HTTP/1.1 messages); RFC 9110 section 6.6.1 (Date).
"""

from __future__ import annotations

import re
from email.utils import formatdate
from math import inf
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from pmoves_mesh.core.choice import LIMIT_MAX
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.where import ANYWHERE
from pmoves_mesh.errors import InvalidFieldError, RateLimitedError
from pmoves_mesh.views.http import answers, choosing, inputs, reads
from pmoves_mesh.views.http.facade import Facade
from pmoves_mesh.views.http.found import Found
from pmoves_mesh.views.http.kept import Kept
from pmoves_mesh.views.http.limits import Limits

REQUEST_BYTES_MAX: Final = 4096

_Key = bytes | tuple[str, ...]

_KEPT_BYTES_MAX: Final = 28 * 1024 * 1024
_READY_BYTES_MAX: Final = 64 * 1024
_HEADERS_MAX: Final = 256

_END: Final = b"\r\n"
_DISCOVER: Final = b"POST /api/discover HTTP/1.1"
_LOOKUP: Final = re.compile(rb"GET /api/services/([A-Za-z0-9-]{1,63}) HTTP/1\.1")
# A request is taken only if all of it is exactly this: nothing here has to guess where it ends, or what
# a header that is not listed would have changed.
_HEADERS: Final = re.compile(
    rb"(?:"
    rb"(?i:User-Agent|Accept|Accept-Encoding|Accept-Language|Content-Type|Host):[ \t]*+[\x20-\x7e]*+\r\n"
    rb"|(?i:Content-Length): ?[0-9]{1,4}\r\n"
    rb"|(?i:Connection: ?keep-alive)\r\n"
    rb"){1,8}"
)
_NOT_PLAIN: Final = -1
_JSON: Final = f"Content-Type: {answers.JSON}\r\n".encode()
_LASTING: Final = "".join(f"{name}: {value}\r\n" for name, value in answers.LASTING.items())


class _Capabilities(Struct, forbid_unknown_fields=True):
    """What most who discover ask for; whatever else a body may say is for `inputs.choice` to read."""

    capabilities: list[str]
    limit: int | UnsetType = UNSET


_decode: Final = msgspec.json.Decoder(_Capabilities).decode


class QuickAnswers:
    """Answers plain requests of the two kinds.

    Attributes:
        kept: for how many services, and sets of capabilities, what was found is held ready.
    """

    def __init__(self, facade: Facade, limits: Limits) -> None:
        self._facade = facade
        self._limits = limits
        self._observe = facade.observe or _nobody
        self._monotonic_s = facade.clock.monotonic_s
        # By the line that asks for a service, and by the capabilities that are asked for.
        self._found: Final[Kept[_Key, Found]] = Kept(_KEPT_BYTES_MAX)
        # How long a body the headers announce that came lately, of clients that are few.
        self._lengths: dict[bytes, int] = {}
        self._registry: Registry = facade.replica.registry
        self._folded = self._position = -1
        self._turn = 0
        self._opening = b""
        self._dated_s = -inf

    @property
    def kept(self) -> int:
        """For how many services, and sets of capabilities, what was found is held ready."""
        return len(self._found)

    def answer(self, data: bytes, remote: str) -> bytes | None:
        """Returns the whole answer to a request; None if a route has to find it.

        Args:
            data: all that came from a client that is waiting for nothing else.
            remote: its address.
        """
        replica = self._facade.replica
        if len(data) > REQUEST_BYTES_MAX or not replica.is_current:
            return None
        began_s = self._monotonic_s()
        line, _, rest = data.partition(_END)
        headers, ended, body = rest.partition(b"\r\n\r\n")
        length = self._lengths.get(headers)
        if length is None:
            length = self._length(headers)
        if length != len(body) or not ended:
            return None
        registry = replica.registry
        # A refused event is not folded in; an own one that is not in the stream yet moves no position.
        if (
            registry.folded != self._folded
            or registry.position != self._position
            or registry is not self._registry
        ):
            self._follow(registry)
        if body:
            method, route = "POST", "/api/discover"
            told = self._discovered(body) if line == _DISCOVER else None
        else:
            method, route = "GET", "/api/services/{name}"
            told = self._looked_up(line)
        if told is None or not self._may(remote):
            return None
        if began_s >= self._dated_s:
            self._date(began_s)
        self._observe(method, route, 200, self._monotonic_s() - began_s)
        return self._opening + told

    def _may(self, remote: str) -> bool:
        try:
            self._limits.check(remote, "read")
        except RateLimitedError:
            return False
        return True

    def _follow(self, registry: Registry) -> None:
        """Takes note that the registry moved, or is another: whatever was found has to be looked at."""
        if registry is not self._registry:
            self._found.clear()
        self._turn += 1
        self._registry, self._folded, self._position = registry, registry.folded, registry.position
        self._dated_s = -inf

    def _date(self, now_s: float) -> None:
        """Makes the first lines of answers, which hold until the next second begins."""
        second, ms = divmod(self._facade.clock.now_ms(), 1000)
        date = formatdate(second, usegmt=True)
        position = f"{answers.POSITION}: {self._position}\r\n"
        self._opening = f"HTTP/1.1 200 OK\r\n{_LASTING}{position}Date: {date}\r\n".encode()
        self._dated_s = now_s + (1000 - ms) / 1000

    def _looked_up(self, line: bytes) -> bytes | None:
        found = self._found.get(line)
        if found is None or (found.turn != self._turn and not self._holds(line, found)):
            wanted = _LOOKUP.fullmatch(line)
            found = reads.found_at_once(self._facade, wanted[1].decode().lower()) if wanted else None
            if found is None:
                return None
        return found.ready.get(found.count) or self._make_ready(line, found, found.count)

    def _discovered(self, body: bytes) -> bytes | None:
        try:
            plain = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._chosen(body)
        capabilities, limit = tuple(plain.capabilities), plain.limit
        found = self._found.get(capabilities)
        if found is None or (found.turn != self._turn and not self._holds(capabilities, found)):
            return self._chosen(body)
        count = found.count
        if limit is not UNSET and limit < count:
            count = limit
        if limit is not UNSET and not 1 <= limit <= LIMIT_MAX:
            return None
        return found.ready.get(count) or self._make_ready(capabilities, found, count)

    def _chosen(self, body: bytes) -> bytes | None:
        try:
            wanted = inputs.choice(body)
        except InvalidFieldError:
            return None
        plain = wanted.where == ANYWHERE and wanted.prefer == "local"
        found = self._found.get(wanted.capabilities) if plain else None
        if found is None or (found.turn != self._turn and not self._holds(wanted.capabilities, found)):
            found = choosing.found_at_once(self._facade, wanted)
            if found is None:
                return None
        count = choosing.counted(found, wanted.limit)
        if not plain:
            return _told(found, count)
        return found.ready.get(count) or self._make_ready(wanted.capabilities, found, count)

    def _holds(self, key: _Key, found: Found) -> bool:
        """Returns whether what was found would be found again; lets go of what may be told otherwise."""
        if not found.holds():
            self._found.drop(key)
            return False
        found.turn = self._turn
        if found.is_seen_since():
            self._found.drop(key)
            found.ready, found.ready_bytes = {}, 0
            self._found.put_again(key, found)
        return True

    def _make_ready(self, key: _Key, found: Found, count: int) -> bytes:
        """Returns an answer but for its first lines, and keeps it with what was found."""
        told = _told(found, count)
        put = self._found.put_again if self._found.drop(key) else self._found.put
        if found.ready_bytes + len(told) > _READY_BYTES_MAX:
            found.ready, found.ready_bytes = {}, 0
        if len(told) <= _READY_BYTES_MAX:
            found.ready[count] = told
            found.ready_bytes += len(told)
        found.turn = self._turn
        put(key, found)
        return told

    def _length(self, headers: bytes) -> int:
        """Returns how long a body these headers announce; less than nothing if they are not plain."""
        length = _announced(headers)
        if len(self._lengths) >= _HEADERS_MAX:
            self._lengths.clear()
        self._lengths[headers] = length
        return length


def _told(found: Found, count: int) -> bytes:
    """Returns an answer but for its first lines, which move more often than the rest."""
    parts, tag = found.told(count)
    body = b"".join(parts)
    return b'%bEtag: "%b"\r\nContent-Length: %d\r\n\r\n%b' % (_JSON, tag.encode(), len(body), body)


def _announced(headers: bytes) -> int:
    lines = headers + _END
    folded = _END + lines.lower()
    if _HEADERS.fullmatch(lines) is None or folded.count(b"\r\nhost:") != 1:
        return _NOT_PLAIN
    lengths = folded.count(b"\r\ncontent-length:")
    if lengths == 0:
        return 0
    said = folded.partition(b"\r\ncontent-length:")[2].partition(_END)[0]
    return int(said) if lengths == 1 else _NOT_PLAIN


def _nobody(_method: str, _route: str, _status: int, _seconds: float) -> None:
    """Takes no note of an answer."""
