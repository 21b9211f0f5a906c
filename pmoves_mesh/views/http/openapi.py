"""`/openapi.json`, made from the table of routes and the types that decode and encode.

Source: OpenAPI 3.1.1; JSON Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from inspect import cleandoc
from typing import Any, Final

import msgspec

import pmoves_mesh
from pmoves_mesh.views.http.answers import INDEX, JSON, POSITION, STALE, TEXT, encode
from pmoves_mesh.views.http.events import EVENT_STREAM, EventStream
from pmoves_mesh.views.http.problems import PROBLEM_JSON
from pmoves_mesh.views.http.route import Parameter, Route
from pmoves_mesh.views.http.routes import MIN_POSITION
from pmoves_mesh.views.http.shapes import Problem

_HEADERS: Final[dict[str, dict[str, Any]]] = {
    POSITION: {
        "description": "The position of the stream that the answer shows, or at which the change stands.",
        "schema": {"type": "integer", "minimum": 0},
    },
    STALE: {
        "description": "Seconds since this replica was last current, or `unknown`; absent when it is now.",
        "schema": {"type": "string"},
    },
    INDEX: {
        "description": "Of a list: stands for what it shows, and moves when that does; for `index`.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "ETag": {"description": "Identifies the body; for If-None-Match.", "schema": {"type": "string"}},
}

_CONTENT_TYPES: Final[dict[Any, str]] = {Problem: PROBLEM_JSON, str: TEXT, EventStream: EVENT_STREAM}

# A schema's patterns are read as ECMA-262, which has neither of them. Source: JSON Schema 2020-12 (Core) 6.4.
_PYTHON_BEGIN: Final = rb"\\A"
_PYTHON_END: Final = rb"\\Z"


def document(routes: Sequence[Route]) -> bytes:
    """Returns the OpenAPI document of `routes` as JSON."""
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    made = encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "PMOVES service registry",
                "version": pmoves_mesh.__version__,
                "description": cleandoc(pmoves_mesh.__doc__ or ""),
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {"schemas": schemas.components, "headers": _HEADERS},
        }
    )
    return made.replace(_PYTHON_BEGIN, b"^").replace(_PYTHON_END, b"$")


class _Schemas:
    """The JSON schema of every type that the routes use.

    Attributes:
        components: those of the types that have a name.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._types = list(_types(routes))
        self._schemas, self.components = msgspec.json.schema_components(
            self._types, ref_template="#/components/schemas/{name}"
        )
        for schema in self.components.values():
            if "description" in schema:
                schema["description"] = cleandoc(schema["description"])

    def of(self, wanted: Any) -> dict[str, Any]:
        """Returns the schema of a type that a route uses."""
        return self._schemas[self._types.index(wanted)]


def _types(routes: Sequence[Route]) -> list[Any]:
    found = [MIN_POSITION.type]
    for route in routes:
        found += (parameter.type for parameter in route.parameters)
        found += route.answers.values()
        if route.body is not None:
            found.append(route.body)
    return found


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    parameters = (*route.parameters, MIN_POSITION) if route.waits else route.parameters
    statuses = dict(route.answers) | {429: Problem}
    if route.waits:
        statuses |= {422: Problem, 503: Problem}
    operation: dict[str, Any] = {
        "operationId": route.handle.__name__,
        "summary": route.summary,
        "parameters": [_parameter(parameter, schemas) for parameter in parameters],
        "responses": {
            str(status): _response(status, shape, schemas) for status, shape in sorted(statuses.items())
        },
    }
    if route.method == "GET":
        operation["responses"]["304"] = {"description": "The reader has it already."}
    if route.body is not None:
        content = {JSON: {"schema": schemas.of(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameter(parameter: Parameter, schemas: _Schemas) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.meaning,
        "schema": schemas.of(parameter.type),
    }


def _response(status: int, shape: Any, schemas: _Schemas) -> dict[str, Any]:
    content_type = _CONTENT_TYPES.get(shape, JSON)
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS},
        "content": {content_type: {"schema": schemas.of(shape)}},
    }
