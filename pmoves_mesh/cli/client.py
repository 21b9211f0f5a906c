"""How the commands ask this host's agent: plain HTTP, with its problems as one line."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import click

from pmoves_mesh.config import Config, is_loopback, load
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.errors import ConfigError, PkiError
from pmoves_mesh.tls import client_context

TIMEOUT_S: Final = 15.0
_INDEX: Final = "X-Mesh-Index"
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - read, not bound


def read_config() -> Config:
    """Reads the settings of this folder and environment.

    Raises:
        ConfigError: if one of them cannot be used.
    """
    return load(os.environ, Path.cwd())


class Answer:
    """A JSON object that an agent answered, taken apart with care: anything may listen on that port.

    Attributes:
        fields: the object itself.
        status: the HTTP status.
        index: which answer this is, for whoever wants to wait for the next; empty where nobody can.
    """

    def __init__(self, url: str, fields: dict[str, Any], status: int, index: str = "") -> None:
        self.fields: Final = fields
        self.status: Final = status
        self.index: Final = index
        self._url = url

    def record(self, field: str) -> dict[str, Any]:
        """Returns the object in a field.

        Raises:
            click.ClickException: if there is none.
        """
        value = self.fields.get(field)
        if not isinstance(value, dict):
            raise _not_an_agent(self._url)
        return value

    def records(self, field: str) -> list[dict[str, Any]]:
        """Returns the list of objects in a field; raises as `record`."""
        value = self.fields.get(field)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise _not_an_agent(self._url)
        return value


class NotAnswering(click.ClickException):
    """No agent answers where one should."""


class Refused(click.ClickException):
    """An agent answered with a problem.

    Attributes:
        status: the HTTP status.
        fields: the members of the problem; empty if it is none.
    """

    def __init__(self, status: int, raw: bytes) -> None:
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        super().__init__(_problem(status, answer))
        self.status: Final = status
        self.fields: Final[dict[str, Any]] = answer if isinstance(answer, dict) else {}


class AgentClient:
    """Asks the agent that these settings describe.

    Args:
        config: the host's settings.
        timeout_s: how long to wait for an answer, in seconds.

    Raises:
        ConfigError: if the agent picks its own port, which nobody outside it can know.
    """

    def __init__(self, config: Config, timeout_s: float = TIMEOUT_S) -> None:
        if config.http_port == 0:
            raise ConfigError("SERVICE_REGISTRY_PORT", "0", "a command must know the port: 1 to 65535")
        self._config = config
        self._host = _WILDCARDS.get(config.http_host, config.http_host)
        self._port = config.http_port
        # Seen from itself a host with one outside address is another host, to whom TLS is spoken.
        self._secured = not (is_loopback(self._host) or config.insecure_http)
        self._token = config.http_token
        self._timeout_s = timeout_s

    @property
    def url(self) -> str:
        """The agent's address, for people and for curl."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._secured else 'http'}://{host}:{self._port}"

    def get(self, path: str, query: dict[str, str] | None = None) -> Answer:
        """Returns the decoded answer of a read.

        Raises:
            click.ClickException: if no agent answers, or it answers with a problem.
        """
        return self._decoded("GET", _with_query(path, query))

    def post(self, path: str, body: object) -> Answer:
        """Sends a JSON body and returns the decoded answer; raises as `get`."""
        return self._decoded("POST", path, body)

    def put(self, path: str, body: object, query: dict[str, str] | None = None) -> Answer:
        """Sends a JSON body to be put in place and returns the decoded answer; raises as `get`."""
        return self._decoded("PUT", _with_query(path, query), body)

    def delete(self, path: str, query: dict[str, str] | None = None) -> Answer:
        """Removes something and returns the decoded answer; raises as `get`."""
        return self._decoded("DELETE", _with_query(path, query))

    @contextmanager
    def stream(
        self, path: str, query: dict[str, str], headers: dict[str, str], silence_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Gives an answer that goes on and on, to be read line by line.

        Args:
            path: what is asked for.
            query: parameters.
            headers: further ones.
            silence_s: after how many seconds without a byte reading raises TimeoutError.

        Raises:
            OSError: if no agent answers, or later if the connection breaks.
            click.ClickException: if it answers with a problem.
        """
        connection = self._connection()
        connection.timeout = silence_s
        try:
            connection.request("GET", _with_query(path, query), headers={**self._headers(), **headers})
            response = connection.getresponse()
            if response.status >= 400:
                raise Refused(response.status, response.read())
            yield response
        finally:
            connection.close()

    def unanswered(self) -> click.ClickException:
        """Returns what to say when nothing answers."""
        return NotAnswering(self._unanswered())

    def probe(self, path: str) -> int | None:
        """Returns the status of a GET, or None if nothing answers."""
        try:
            return self._exchange("GET", path, None)[0]
        except (OSError, http.client.HTTPException, PkiError):
            return None

    def _decoded(self, method: str, path: str, body: object = None) -> Answer:
        try:
            status, raw, index = self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise NotAnswering(self._unanswered()) from error
        if status >= 400:
            raise Refused(status, raw)
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise _not_an_agent(self.url)
        return Answer(self.url, answer, status, index)

    def _unanswered(self) -> str:
        return f"no agent answers at {self.url}; start it with: pmoves-mesh up"

    def _connection(self) -> http.client.HTTPConnection:
        if not self._secured:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        context = self._context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=context)

    def _context(self) -> ssl.SSLContext:
        return _context(self._config, _node_files(self._config), self._config.node)

    def _headers(self) -> dict[str, str]:
        return {} if self._token is None else {"Authorization": f"Bearer {self._token.reveal()}"}

    def _exchange(self, method: str, path: str, body: object) -> tuple[int, bytes, str]:
        headers = {"Accept": "application/json", **self._headers()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = self._connection()
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            return response.status, response.read(), response.headers.get(_INDEX, "")
        finally:
            connection.close()


class NodeClient(AgentClient):
    """Asks the agent of another node over HTTPS, with the operator's identity or else this node's.

    Args:
        config: this host's settings.
        node: the other node, which must prove that it is.
        place: the address and the port of its agent.
        remedy: what to do if it does not answer.
    """

    def __init__(self, config: Config, node: str, place: tuple[str, int], *, remedy: str) -> None:
        super().__init__(config)
        self._host, self._port = place
        self._secured = True
        self._token = None  # it is this node's, and no other's
        self._node = node
        self._remedy = remedy

    def _unanswered(self) -> str:
        return f"the agent of {self._node} cannot be reached at {self.url}: {self._remedy}"

    def _context(self) -> ssl.SSLContext:
        operator = self._config.tls_dir / "operator.crt", self._config.tls_dir / "operator.key"
        files = operator if all(path.exists() for path in operator) else _node_files(self._config)
        return _context(self._config, files, self._node)


def _node_files(config: Config) -> tuple[Path, Path]:
    directory = config.data_dir / "identity"
    return directory / "node.crt", directory / "node.key"


def _context(config: Config, files: tuple[Path, Path], node: str) -> ssl.SSLContext:
    """Returns what shows an identity of this host, and believes the agent of one node alone.

    Raises:
        PkiError: if the identity's files cannot be used, as before the agent's first start.
    """
    allow = (spiffe_id(config.mesh, "node", node),)
    return client_context(*files, config.tls_dir / "ca.crt", allow=allow)


def _not_an_agent(url: str) -> click.ClickException:
    return click.ClickException(f"what answers at {url} is not a pmoves-mesh agent")


def _with_query(path: str, query: dict[str, str] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _problem(status: int, answer: object) -> str:
    """Returns an RFC 9457 problem as one line.

    Source: RFC 9457 section 3.1 (`detail`, else `title`).
    """
    if isinstance(answer, dict):
        text = answer.get("detail") or answer.get("title")
        if isinstance(text, str):
            return text
    return f"the agent answered with HTTP status {status}"
