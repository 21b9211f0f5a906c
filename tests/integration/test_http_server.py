from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from http_support import Served, served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmoves_mesh.views.http.facade import Facade


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as here:
        yield here


@pytest.fixture
def facade(mesh: Served) -> Facade:
    return Facade(replica=mesh.replica, registrar=mesh.registrations, node="alpha", describe=mesh.facts)


@pytest.mark.parametrize(
    "path", ["/absent", "/api", "/api/services/a/b", "/api/services/", "/..%2f", "/api//services"]
)
async def test_an_unknown_route_is_a_problem(mesh: Served, path: str):
    answer = await mesh.get(path)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["title"] == "Not Found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/services", {"GET", "HEAD", "POST"}),
        ("POST", "/api/services/rag", {"GET", "HEAD", "DELETE"}),
        ("GET", "/api/discover", {"POST"}),
        ("OPTIONS", "/api/status", {"GET", "HEAD"}),
        ("TRACE", "/", {"GET", "HEAD"}),
        ("BREW", "/healthz", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_a_problem_that_lists_the_right_ones(
    mesh: Served, method: str, path: str, allowed: set[str]
):
    answer = await mesh.ask(method, path)
    assert answer.status == 405
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert set(answer.headers["Allow"].split(",")) == allowed


async def test_an_expectation_that_cannot_be_met_is_a_problem(mesh: Served):
    answer = await mesh.get("/", headers={"Expect": "coffee"})
    assert (answer.status, answer.body["status"]) == (417, 417)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
FIELDS = [
    "name",
    "id",
    "host",
    "port",
    "ports",
    "mode",
    "capabilities",
    "health_url",
    "metadata",
    "deregister_after",
]
BODIES = st.one_of(
    st.binary(max_size=200),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=10).map(lambda value: {"name": "rag", **value}),
    JSON,
)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(bodies=st.lists(BODIES, min_size=1, max_size=8))
def test_no_body_whatsoever_is_a_fault_of_the_server(tmp_path: Path, bodies: list[Any]):
    raise NotImplementedError
