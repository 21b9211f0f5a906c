"""The model: instances, and the stamps that order what is said of them."""

from __future__ import annotations

from typing import Any

import pytest
from builders import instance

from pmoves_mesh.core.model import NEVER, InstanceKey, Stamp, check_json, check_metadata
from pmoves_mesh.errors import InvalidFieldError


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_a_later_incarnation_outranks_any_revision_of_an_earlier_one():
    assert Stamp(2, 0) > Stamp(1, 10**9) > Stamp(1, 1) > Stamp(0, 10**9) > NEVER


def test_an_instance_is_named_by_service_node_and_id():
    assert instance("rag", "alpha", "8080").key == InstanceKey("rag", "alpha", "8080")


def test_an_instance_says_least_by_default():
    record = instance()
    assert (record.port, record.mode, record.health_status) == (0, "docked", "unknown")
    assert record.deregister_after == 300
    assert (record.ports, record.capabilities, record.metadata) == ({}, (), {})


def test_metadata_may_have_16_kib_as_json():
    check_metadata({"k": "x" * (16 * 1024 - len('{"k":""}'))})
    with pytest.raises(InvalidFieldError, match="16385 bytes as JSON, at most 16384") as refused:
        check_metadata({"k": "x" * (16 * 1024 - len('{"k":""}') + 1)}, "data.metadata")
    assert refused.value.field == "data.metadata"


def test_json_may_be_nested_32_deep():
    check_json(_nested(31), "metadata")
    check_json({"a": _nested(30)}, "metadata")
    for value in (_nested(33), {"a": [{"b": _nested(31)}]}, _nested(5000)):
        with pytest.raises(InvalidFieldError, match="nested more than 32 deep") as refused:
            check_json(value, "metadata")
        assert refused.value.field == "metadata"


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_integers_beyond_64_bits_are_refused(number: int):
    with pytest.raises(InvalidFieldError, match="an integer beyond 64 bits"):
        check_metadata({"a": [{"b": number}]})


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 1.5e300, True, None, "text", [], {}])
def test_every_other_json_value_is_metadata(value: object):
    check_metadata({"a": value})
