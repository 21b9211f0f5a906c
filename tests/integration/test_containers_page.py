"""The page on containers, held to what it says."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from agents import ROOT

from pmoves_mesh.agent.containers import labels
from pmoves_mesh.agent.containers.inspected import Container
from pmoves_mesh.agent.containers.labels import Here, wanted_by

PAGE = (ROOT / "docs" / "containers.md").read_text()


def test_the_table_names_every_label():
    cells = re.findall(r"^\| (`[^|]+`) \|", PAGE, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} - {"pmoves.mesh."}
    known = {label.removeprefix(labels.PREFIX) for label in labels._KNOWN}
    assert named == known | {"ports.<name>", "metadata.<name>"}


def test_the_example_is_registered_as_it_says():
    compose = re.search(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    assert compose is not None
    asked = dict(re.findall(r'^ +(pmoves\.mesh\.[a-z.]+): "?([^"\n]+)', compose[1], re.MULTILINE))
    published = re.findall(r'"(\d+):(\d+)"', compose[1])
    said: dict[str, Any] = {
        "Name": "/compose-qdrant-1",
        "Config": {"Labels": asked},
        "NetworkSettings": {
            "Ports": {
                f"{inside}/tcp": [{"HostIp": "0.0.0.0", "HostPort": host}] for host, inside in published
            }
        },
    }
    one = msgspec.convert(said, Container)
    wanted = wanted_by(one, one, Here("100.64.0.7", "docked"))
    assert not wanted.unknown
    registration = wanted.registration
    assert (registration.name, registration.port, registration.ports) == ("qdrant", 6333, {"grpc": 6334})
    assert registration.capabilities == ["vector", "database"]
    assert registration.health_url == "http://100.64.0.7:6333/readyz"
