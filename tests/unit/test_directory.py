"""The directory: what a program knows of the mesh, and whom it would call."""

from __future__ import annotations

import pytest
from sdk_support import shown

from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.errors import InvalidFieldError, NothingKnownError
from pmoves_mesh.sdk.directory import Directory


def directory_of(*instances: object, node: str = "") -> Directory:
    directory = Directory()
    directory.node = node
    directory.replace(instances, 7)
    return directory


def test_a_directory_that_has_seen_nothing_does_not_say_that_there_is_nothing():
    with pytest.raises(NothingKnownError):
        Directory().discover()
    assert directory_of().discover() == []


def test_all_capabilities_must_match_and_the_sick_the_hidden_and_the_lost_are_left_out():
    found = directory_of(
        shown(id="both", capabilities=("rag", "gpu")),
        shown(id="one", capabilities=("rag",)),
        shown(id="sick", capabilities=("rag", "gpu"), health_status="unhealthy"),
        shown(id="hidden", capabilities=("rag", "gpu"), maintenance=True),
        shown(id="lost", capabilities=("rag", "gpu"), node_status="lost"),
    ).discover(["gpu", "rag"])
    assert [one.id for one in found] == ["both"]


def test_the_healthy_come_first_and_among_equals_those_of_the_own_node():
    directory = directory_of(
        shown(id="a", node="beta", health_status="unknown"),
        shown(id="b", node="beta"),
        shown(id="c", node="alpha"),
        shown(id="d", node="alpha", health_status="unknown"),
        shown(id="e", node="alpha", port=0),
        node="alpha",
    )
    assert [one.id for one in directory.discover()] == ["c", "b", "e", "d", "a"]


def test_only_what_differs_is_told_when_the_whole_mesh_is_taken_in_again():
    directory = directory_of(shown(id="same"), shown(id="gone"), shown(id="moved"))
    told: list[InstanceKey] = []
    with directory.listened(told.append):
        directory.replace([shown(id="same"), shown(id="moved", port=81), shown(id="new")], 9)
        directory.drop(InstanceKey("rag", "alpha", "never-there"), 10)
    directory.put(shown(id="unheard"), 11)
    assert sorted(key.id for key in told) == ["gone", "moved", "new"]
    assert directory.position == 11


def test_what_was_dropped_is_found_no_more():
    directory = directory_of(shown(id="a"), shown(id="b"))
    for one in ("a", "b", "b"):
        directory.drop(InstanceKey("rag", "alpha", one), 8)
    assert list(directory) == []
    assert not directory.of_service("rag")


def test_an_address_is_fit_for_a_url_of_either_kind():
    one = shown(host="fd00::7", port=9000, ports={"grpc": 9001})
    assert one.address == "[fd00::7]:9000"
    assert one.url("/healthz") == "http://[fd00::7]:9000/healthz"
    assert one.url(scheme="grpc", port="grpc") == "grpc://[fd00::7]:9001"
    assert shown(host="jetson").address == "jetson:80"


@pytest.mark.parametrize("port", ["", "metrics"])
def test_a_port_that_is_not_there_is_named_in_the_refusal(port: str):
    with pytest.raises(InvalidFieldError, match="rag on alpha has no port"):
        shown(port=0).at(port)


@pytest.mark.parametrize(
    ("said", "weight"), [(3, 3.0), ("2.5", 2.5), (0, 0.0), (-1, 1.0), ("heavy", 1.0), (None, 1.0), (1e9, 1.0)]
)
def test_a_weight_that_is_none_counts_as_one(said: object, weight: float):
    assert shown(metadata={"weight": said}).weight == weight
