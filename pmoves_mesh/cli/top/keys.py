"""Keys, as a terminal sends them: bytes in, names out. No input or output of its own.

Source: ECMA-48 section 5.4 (control sequences); xterm control sequences (cursor and editing keys).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final

_WHOLE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~])")
_BEGUN: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")
_PENDING_MAX: Final = 32

_CURSOR: Final = {"A": "up", "B": "down", "H": "home", "F": "end"}
_EDITING: Final = {"1": "home", "4": "end", "5": "page_up", "6": "page_down", "7": "home", "8": "end"}
_SEQUENCES: Final = {
    **{f"\x1b{lead}{end}": name for lead in "[O" for end, name in _CURSOR.items()},
    **{f"\x1b[{code}~": name for code, name in _EDITING.items()},
}
_CONTROLS: Final = {
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x06": "page_down",
    "\x02": "page_up",
    "\x0c": "redraw",
    "\x15": "clear",
    "\x1b": "escape",
}


class Keys:
    """Takes what was read, however it was cut, and gives the keys that were pressed.

    A key is its character, or one of the names `up`, `down`, `home`, `end`, `page_up`, `page_down`,
    `enter`, `tab`, `backspace`, `escape`, `redraw` and `clear`. What else a terminal sends is left out.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._pending = ""

    @property
    def is_amid(self) -> bool:
        """Whether an escape has come, and not yet what follows it, or that nothing does."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[str]:
        """Returns the keys that are complete with these bytes."""
        text = self._pending + self._decoder.decode(data)
        self._pending = ""
        return list(self._taken(text))

    def settle(self) -> list[str]:
        """Returns what is left, when no more has come for a while: an escape alone is the key itself."""
        pending, self._pending = self._pending, ""
        return ["escape"] if pending == "\x1b" else []

    def _taken(self, text: str) -> Iterator[str]:
        at = 0
        while at < len(text):
            if whole := _WHOLE.match(text, at):
                at = whole.end()
                if name := _SEQUENCES.get(whole[0]):
                    yield name
                continue
            if _BEGUN.match(text, at) and len(text) - at <= _PENDING_MAX:
                self._pending = text[at:]
                return
            key = text[at]
            at += 1
            if name := _CONTROLS.get(key):
                yield name
            elif key.isprintable():
                yield key
