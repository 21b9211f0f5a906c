"""What a host of a cluster remembers of whose certificates hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmoves_mesh.errors import StoreError
from pmoves_mesh.store.issued import Holder, IssuedCopy, IssuedList


def holder(name: str, key: str = "", end_ms: int = 1000) -> Holder:
    digest = f"{name.encode().hex():0>64}"[-64:]
    return Holder(kind="node", name=name, key_id=key or digest[::-1], fingerprint=digest, not_after_ms=end_ms)


def listed(*holders: Holder, owner: str = "alpha") -> IssuedList:
    return IssuedList(owner=owner, holders=holders)


@pytest.fixture
def copy(tmp_path: Path) -> IssuedCopy:
    return IssuedCopy(tmp_path / "issued.json")


def test_before_it_is_told_anything_it_knows_nobody(copy: IssuedCopy):
    assert not copy.load()
    assert copy.owner == ""
    assert copy.certificates() == []


def test_what_it_was_told_is_there_after_a_restart(copy: IssuedCopy, tmp_path: Path):
    copy.take(listed(holder("beta")))
    again = IssuedCopy(tmp_path / "issued.json")
    assert again.load()
    assert again.owner == "alpha"
    assert again.certificates() == [holder("beta")]


def test_a_file_that_is_no_use_counts_as_none(copy: IssuedCopy, tmp_path: Path):
    (tmp_path / "issued.json").write_text('{"owner": "a/b", "holders": []}')
    assert not copy.load()
    assert copy.owner == ""


def test_only_what_says_something_else_makes_another_state(copy: IssuedCopy):
    assert copy.take(listed(holder("beta")))
    state = copy.version()
    assert not copy.take(listed(holder("beta")))
    assert copy.version() == state
    assert copy.take(listed(holder("beta"), holder("gamma")))
    assert copy.version() != state


def test_who_is_revoked_is_left_out_with_every_certificate_of_its_key(copy: IssuedCopy):
    key = "ab" * 32
    copy.take(listed(holder("beta", key), holder("beta-2", key), holder("gamma")))
    copy.revoke([holder("beta").fingerprint], 0)
    assert copy.certificates() == [holder("gamma")]


def test_an_older_list_lets_nobody_in_again_who_was_revoked(copy: IssuedCopy):
    copy.take(listed(holder("beta"), holder("gamma")))
    copy.revoke([holder("beta").fingerprint], 0)
    copy.take(listed(holder("beta")))
    assert copy.certificates() == []


def test_a_certificate_holds_until_its_end():
    assert holder("beta", end_ms=1000).holds(999)
    assert not holder("beta", end_ms=1000).holds(1000)


def test_a_list_that_cannot_be_kept_is_said(tmp_path: Path):
    copy = IssuedCopy(tmp_path / "missing" / "issued.json")
    with pytest.raises(StoreError, match="cannot be written"):
        copy.take(listed())


def test_a_list_that_cannot_be_kept_holds_all_the_same_and_is_kept_once_there_is_room(tmp_path: Path):
    path = tmp_path / "later" / "issued.json"
    copy = IssuedCopy(path)
    for _ in range(2):
        with pytest.raises(StoreError):
            copy.take(listed(holder("beta")))
        assert [one.name for one in copy.certificates()] == ["beta"]
    path.parent.mkdir()
    assert not copy.take(listed(holder("beta")))
    assert IssuedCopy(path).load()
