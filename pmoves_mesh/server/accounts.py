"""The accounts and users of a secured nats-server, as text of its configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pmoves_mesh.core import slug
from pmoves_mesh.core.names import JETSTREAM_API, MESH_API
from pmoves_mesh.server.access import Access, Member
from pmoves_mesh.server.permissions import (
    Permissions,
    crossings,
    disconnects,
    is_at_home,
    outer_account,
    permissions,
)

SYSTEM: Final = "SYS"
"""The system account; no mesh can have the name, nor anybody a user there."""

_INBOXES: Final = ("_INBOX.node.>", "_INBOX.operator.>")


def accounts_block(accesses: Sequence[Access]) -> str:
    """Returns the `accounts` of all meshes on a server, and its `system_account`.

    Source: docs.nats.io, "Accounts", "Authorization" and "Subject Mapping".
    """
    lines = ["accounts {", *_system(accesses)]
    for access in accesses:
        lines += _home(access)
        lines += _outer(access)
    return "\n".join((*lines, "}", f"system_account: {SYSTEM}", ""))


def quoted(text: str) -> str:
    """Returns `text` as a string of the configuration, which escapes quotes and backslashes as JSON does."""
    return json.dumps(text, ensure_ascii=False)


def listed(texts: Iterable[str]) -> str:
    """Returns texts as a list of the configuration."""
    return f"[{', '.join(map(quoted, texts))}]"


def _system(accesses: Sequence[Access]) -> Iterator[str]:
    yield f"    {SYSTEM} {{"
    yield "        exports: ["
    for access in accesses:
        both = listed((access.mesh, outer_account(access.mesh)))
        for subject in disconnects(access.mesh):
            yield f"            {{stream: {quoted(subject)}, accounts: {both}}}"
    yield "        ]"
    yield "    }"


def _home(access: Access) -> Iterator[str]:
    outer = f"accounts: {listed((outer_account(access.mesh),))}"
    yield f"    {quoted(access.mesh)} {{"
    yield "        jetstream: enabled"
    yield f"        mappings: {{ {quoted(f'{MESH_API}>')}: {quoted(f'{JETSTREAM_API}>')} }}"
    yield from _users(access, at_home=True)
    yield "        exports: ["
    for crossing in crossings():
        several = ", response_type: stream" if crossing.stream else ""
        yield f"            {{service: {quoted(crossing.subject)}{several}, {outer}}}"
    for subject in (*_INBOXES, slug.SUBJECT):
        yield f"            {{stream: {quoted(subject)}, {outer}}}"
    yield "        ]"
    yield "        imports: ["
    yield from _advisories(access.mesh)
    yield "        ]"
    yield "    }"


def _outer(access: Access) -> Iterator[str]:
    home = quoted(access.mesh)
    yield f"    {quoted(outer_account(access.mesh))} {{"
    yield from _users(access, at_home=False)
    yield "        imports: ["
    for crossing in crossings():
        service = f"service: {{account: {home}, subject: {quoted(crossing.subject)}}}"
        # JetStream answers in the account that a request names, and only a shared one names the home.
        local = f", to: {quoted(crossing.local)}, share: true" if crossing.local != crossing.subject else ""
        yield f"            {{{service}{local}}}"
    for subject in (*_INBOXES, slug.SUBJECT):
        yield f"            {{stream: {{account: {home}, subject: {quoted(subject)}}}}}"
    yield from _advisories(access.mesh)
    yield "        ]"
    yield "    }"


def _advisories(mesh: str) -> Iterator[str]:
    for subject in disconnects(mesh):
        yield f"            {{stream: {{account: {SYSTEM}, subject: {quoted(subject)}}}}}"


def _users(access: Access, *, at_home: bool) -> Iterator[str]:
    yield "        users: ["
    for member in access.members:
        if member.pins and is_at_home(member, access.owner) == at_home:
            yield from _user(member, permissions(member, access))
    yield "        ]"


def _user(member: Member, may: Permissions) -> Iterator[str]:
    yield f"            {{user: {quoted(member.identity)}, permissions: {{"
    yield from _side("publish", may.publish, may.publish_deny)
    yield from _side("subscribe", may.subscribe, may.subscribe_deny)
    yield "            }}"


def _side(verb: str, allow: Sequence[str], deny: Sequence[str]) -> Iterator[str]:
    denied = f", deny: {listed(deny)}" if deny else ""
    yield f"                {verb}: {{allow: {listed(allow)}{denied}}}"
