"""Join tokens: one line, that survives copying, and whose secret is shown nowhere else."""

from __future__ import annotations

import base64
import hashlib
import hmac

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pmoves_mesh.errors import EnrolmentRefusedError
from pmoves_mesh.pki import tokens
from pmoves_mesh.pki.tokens import JoinToken, decode, new_token

CA = "ab" * 32
URLS = ("https://10.0.0.1:8100", "https://[fd00::1]:8100", "https://main.lan:8100")


def a_token(**fields: object) -> JoinToken:
    return new_token(**({"mesh": "home", "urls": URLS, "ca": CA, "issuer": "main"} | fields))


def line_of(*content: object) -> str:
    raw = msgspec.msgpack.encode(content)
    checked = raw + hashlib.sha256(raw).digest()[:4]
    return tokens.PREFIX + base64.urlsafe_b64encode(checked).rstrip(b"=").decode()


@pytest.mark.parametrize("node", ["", "jetson"])
def test_a_token_is_one_line_and_comes_back_whole(node: str):
    token = a_token(node=node)
    line = token.encode()
    assert line.startswith("pmoves1-")
    assert line.isprintable()
    assert " " not in line
    assert decode(line) == token
    assert (token.mesh, token.urls, token.ca, token.issuer, token.node) == ("home", URLS, CA, "main", node)


def test_a_token_that_a_mail_broke_into_lines_is_the_same():
    token = a_token()
    line = token.encode()
    assert decode(f"  {line[:40]}\n{line[40:90]}\r\n   {line[90:]}\n") == token


def test_no_two_tokens_share_an_id_or_a_secret():
    made = [a_token() for _ in range(50)]
    assert len({token.id for token in made}) == len({token.secret for token in made}) == 50
    assert all(len(token.secret) >= 43 for token in made)


def test_a_token_that_is_printed_hides_its_secret():
    token = a_token()
    assert token.secret not in repr(token)
    assert token.secret not in str(token)
    assert token.id in repr(token)


LINE = a_token().encode()


@given(st.integers(0, 10_000), st.sampled_from("abcXYZ019-_"))
def test_a_token_with_any_character_changed_is_damaged(place: int, letter: str):
    place %= len(LINE)
    changed = LINE[:place] + letter + LINE[place + 1 :]
    assume(changed != LINE)
    with pytest.raises(EnrolmentRefusedError) as refused:
        decode(changed)
    assert refused.value.reason == "token_damaged"


@given(st.text(max_size=300))
def test_whatever_is_no_token_is_damaged_and_nothing_else(text: str):
    for line in (text, tokens.PREFIX + text):
        with pytest.raises(EnrolmentRefusedError) as refused:
            decode(line)
        assert refused.value.reason == "token_damaged"


@given(st.integers(1, 400))
def test_a_token_that_was_cut_is_damaged(missing: int):
    with pytest.raises(EnrolmentRefusedError, match="damaged"):
        decode(LINE[: -min(missing, len(LINE))])


GOOD = ("home", URLS, bytes.fromhex(CA), "main", "0011", "secret", "")


@pytest.mark.parametrize(
    "content",
    [
        ("HOME!", *GOOD[1:]),
        (*GOOD[:1], (), *GOOD[2:]),
        (*GOOD[:1], ("http://10.0.0.1:8100",), *GOOD[2:]),
        (*GOOD[:1], ("https://10.0.0.1:8100/elsewhere",), *GOOD[2:]),
        (*GOOD[:1], ("https://10.0.0.1:99999",), *GOOD[2:]),
        (*GOOD[:1], tuple(f"https://10.0.0.{n}:8100" for n in range(9)), *GOOD[2:]),
        (*GOOD[:2], b"short", *GOOD[3:]),
        (*GOOD[:3], "main/../x", *GOOD[4:]),
        (*GOOD[:4], "", *GOOD[5:]),
        (*GOOD[:5], "new\nline", *GOOD[6:]),
        (*GOOD[:6], "-node"),
        GOOD[:4],
        (1, 2, 3),
    ],
)
def test_a_token_whose_parts_are_out_of_bounds_is_damaged(content: tuple[object, ...]):
    assert decode(line_of(*GOOD)).mesh == "home"
    with pytest.raises(EnrolmentRefusedError) as refused:
        decode(line_of(*content))
    assert refused.value.reason == "token_damaged"


def test_what_is_kept_of_a_secret_tells_it_to_nobody_but_matches_it():
    token = a_token()
    stored = tokens.hashed(token.secret)
    assert token.secret not in stored
    assert tokens.matches(token.secret, stored)
    assert not tokens.matches(a_token().secret, stored)
    assert not tokens.matches("", stored)
    assert not tokens.matches("é", stored)


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert tokens.matches("secret", tokens.hashed("secret"))
    assert not tokens.matches("secret", tokens.hashed("other"))
    assert len(compared) == 2
