"""Speech and its transcript, as small as they can be and still be both: Morse code in a WAV file."""

from __future__ import annotations

import io
import math
import wave
from array import array
from itertools import groupby
from typing import Final

_RATE: Final = 8000
_UNIT: Final = 200  # samples of a dot
_TONE_HZ: Final = 800
_CODES: Final = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- "
    "-.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
)
_LETTERS: Final = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", _CODES.split(" "), strict=True))
_BY_CODE: Final = {code: letter for letter, code in _LETTERS.items()}
_DASH_UNITS: Final = 3
_WORD_UNITS: Final = 7


def speak(text: str) -> bytes:
    """Returns a recording of letters, digits and blanks."""
    units = "0000000".join(map(_word, text.upper().split())) + "0"
    tone = [int(20_000 * math.sin(2 * math.pi * _TONE_HZ * at / _RATE)) for at in range(_UNIT)]
    samples = array("h")
    for unit in units:
        samples.extend(tone if unit == "1" else [0] * _UNIT)
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(_RATE)
        recording.writeframes(samples.tobytes())
    return file.getvalue()


def _word(word: str) -> str:
    """Returns a word as units of sound and silence."""
    return "000".join("0".join({".": "1", "-": "111"}[sign] for sign in _LETTERS[letter]) for letter in word)


def understand(recording: bytes) -> str:
    """Returns what is said in a recording."""
    with wave.open(io.BytesIO(recording)) as file:
        samples = array("h", file.readframes(file.getnframes()))
    loud = [max(map(abs, samples[at : at + _UNIT])) > 5000 for at in range(0, len(samples), _UNIT)]
    words: list[str] = []
    code, word = "", ""
    for is_tone, run in groupby(loud):
        length = len(list(run))
        if is_tone:
            code += "-" if length >= _DASH_UNITS else "."
        elif length >= _DASH_UNITS:
            word, code = word + _BY_CODE[code], ""
            if length >= _WORD_UNITS:
                words, word = [*words, word], ""
    return " ".join([*words, word + _BY_CODE[code]]).lower()
