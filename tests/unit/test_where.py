"""Conditions: what each operator means, where a path leads, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import pytest
from builders import Story, announced, instance, registered

from pmoves_mesh.core.where import FIELDS, parse_where
from pmoves_mesh.errors import InvalidFieldError

RESOURCES = {
    "arch": "amd64",
    "cpu_cores": 16,
    "memory_gb": 63.0,
    "gpu_count": 2,
    "gpu": [
        {"vendor": "nvidia", "model": "NVIDIA GeForce RTX 5090", "memory_gb": 32.0, "driver": "580.65"},
        {"vendor": "amd", "model": "AMD 0x744c", "memory_gb": 6.0},
    ],
}
METADATA = {
    "model": "large",
    "pmoves.tier": "api",
    "place": {"rack": 7, "row": None},
    "tags": ["a", "b"],
    "on": True,
}


def holds(where: dict[str, Any], resources: dict[str, Any] | None = None) -> bool:
    """Returns whether conditions hold of an instance on a node with these resources."""
    story = Story()
    record = instance(
        "whisper", "alpha", port=9000, ports={"grpc": 9001}, capabilities=("stt", "gpu"), metadata=METADATA
    )
    has = RESOURCES if resources is None else resources
    story.tell(announced(1, resources=has, capabilities=("gpu", "cuda")), registered(2, record))
    parsed = parse_where(where)
    (entry,) = story.registry.entries()
    return parsed.holds_of_node(story.registry.nodes["alpha"]) and parsed.holds_of_instance(entry)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"resources.arch": "amd64"},
        {"resources.cpu_cores": 16},
        {"resources.cpu_cores": {"eq": 16.0, "ne": 8, "gt": 15, "gte": 16, "lt": 17, "lte": 16}},
        {"resources.arch": {"in": ["arm64", "amd64"]}},
        {"resources.arch": {"gt": "amd", "lt": "arm64"}},
        {"resources.gpu.memory_gb": {"gte": 8}},
        {"resources.gpu.memory_gb": {"lt": 8}},
        {"resources.gpu.vendor": "amd"},
        {"resources.gpu": {"exists": True}},
        {"resources.gpu.driver": {"exists": False}},
        {"resources.tpu": {"exists": False}},
        {"resources.tpu": {"ne": "v5"}},
        {"node_capabilities": "cuda"},
        {"node_capabilities": {"ne": "rocm"}},
        {"capabilities": {"in": ["tts", "stt"]}},
        {"name": "whisper", "node": "alpha", "id": "1", "host": {"exists": True}, "port": {"gte": 9000}},
        {"ports.grpc": 9001},
        {"ports.metrics": {"exists": False}},
        {"mode": "docked", "health_status": {"in": ["healthy", "unknown"]}, "health_url": {"exists": False}},
        {"verified": True, "signer": "spiffe://pmoves-mesh/node/alpha"},
        {"metadata.model": "large"},
        {"metadata.pmoves.tier": "api"},
        {"metadata.place.rack": {"gte": 7}},
        {"metadata.place.row": {"exists": False}},
        {"metadata.tags": "b"},
        {"metadata.on": True},
        {"metadata.on": {"in": [True]}},
    ],
    ids=str,
)
def test_a_condition_holds(where: dict[str, Any]):
    assert holds(where)


@pytest.mark.parametrize(
    "where",
    [
        {"resources.arch": "arm64"},
        {"resources.arch": 16},
        {"resources.cpu_cores": "16"},
        {"resources.cpu_cores": {"gt": 16}},
        {"resources.cpu_cores": {"gt": "1"}},
        {"resources.cpu_cores": {"gte": 8, "lt": 16}},
        {"resources.tpu": {"gte": 1}},
        {"resources.tpu": {"in": ["v5"]}},
        {"resources.gpu": {"exists": False}},
        {"resources.gpu.memory_gb": {"gt": 32}},
        {"resources.gpu.memory_gb": {"gt": 6, "lt": 32}},
        {"resources.arch": "amd64", "resources.cpu_cores": 8},
        {"capabilities": {"ne": "gpu"}},
        {"node_capabilities": {"ne": "cuda"}},
        {"metadata.on": 1},
        {"metadata.on": {"gte": 1}},
        {"metadata.place": "rack"},
        {"metadata.model.size": {"exists": True}},
        {"metadata.tags": {"in": ["c"]}},
        {"health_url": "http://10.0.0.1/"},
    ],
    ids=str,
)
def test_a_condition_does_not_hold(where: dict[str, Any]):
    assert not holds(where)


def test_all_conditions_on_gpus_must_hold_of_one_and_the_same():
    assert holds({"resources.gpu.vendor": "nvidia", "resources.gpu.memory_gb": {"gte": 8}})
    assert not holds({"resources.gpu.vendor": "amd", "resources.gpu.memory_gb": {"gte": 8}})
    assert holds({"resources.gpu.vendor": {"ne": "nvidia"}, "resources.gpu.memory_gb": {"lt": 8}})


@pytest.mark.parametrize("resources", [{}, {"gpu": []}, {"gpu": "rtx"}, {"gpu": 2}, {"gpu": [3, None]}])
def test_what_other_announcements_say_of_resources_is_no_gpu(resources: dict[str, Any]):
    assert not holds({"resources.gpu.memory_gb": {"gte": 0}}, resources)
    assert holds({"resources.gpu.memory_gb": {"exists": False}}, resources)


def test_numbers_that_foreign_announcements_give_are_found_by_the_same_names():
    foreign = {"gpu_count": 2, "cpu_cores": 32, "memory_gb": 128.5, "load": 0.25}
    assert holds({"resources.cpu_cores": {"gte": 32}, "resources.memory_gb": {"gte": 128}}, foreign)


def test_a_node_that_never_announced_itself_has_no_resources():
    story = Story()
    story.tell(registered(1, instance("rag", "alpha")))
    assert not parse_where({"resources.cpu_cores": {"gte": 1}}).holds_of_node(story.registry.nodes["alpha"])
    assert parse_where({"resources.gpu": {"exists": False}}).holds_of_node(story.registry.nodes["alpha"])


@pytest.mark.parametrize(
    ("where", "field", "words"),
    [
        ({"colour": "red"}, "where", "'colour' does not begin with one of name, id, node"),
        ({"": "red"}, "where", "'' is not a path such as resources.gpu.memory_gb"),
        ({"resources..gpu": 1}, "where", "'resources..gpu' is not a path"),
        ({"resources.": 1}, "where", "is not a path"),
        ({"resources." + "x." * 20 + "y": 1}, "where", "is not a path"),
        ({"metadata." + "x" * 300: 1}, "where", "is not a path"),
        ({"name.first": "x"}, "where", "'name.first' goes on below name, which is no object"),
        (
            {"name": None},
            "where.name",
            "None is not a text, a number, true, false, or an object of operators",
        ),
        ({"name": ["x"]}, "where.name", "['x'] is not a text"),
        ({"name": {}}, "where.name", "no operator; one of eq, ne, gt, gte, lt, lte, in, exists"),
        ({"name": {"like": "x"}}, "where.name", "'like' is not one of eq, ne"),
        ({"name": {"eq": None}}, "where.name.eq", "None is not a text, a number, true or false"),
        ({"port": {"gte": True}}, "where.port.gte", "True is not a number or a text"),
        ({"port": {"lt": {}}}, "where.port.lt", "{} is not a number or a text"),
        ({"port": {"in": 8}}, "where.port.in", "8 is not a list of 1 to 100 values"),
        ({"port": {"in": []}}, "where.port.in", "[] is not a list of 1 to 100 values"),
        ({"port": {"in": [[1]]}}, "where.port.in", "[1] is not a text, a number, true or false"),
        ({"port": {"exists": 1}}, "where.port.exists", "1 is neither true nor false"),
        ({"name": "x" * 1025}, "where.name", "1025 characters, at most 1024"),
        ({f"metadata.{number}": 1 for number in range(33)}, "where", "33 conditions, at most 32"),
    ],
)
def test_what_is_refused_is_named_with_what_is_allowed(where: dict[str, Any], field: str, words: str):
    with pytest.raises(InvalidFieldError) as refused:
        parse_where(where)
    assert refused.value.field == field
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_that_is_allowed_can_be_looked_at(field: str):
    assert holds({field: {"exists": True}}) != holds({field: {"exists": False}})
