"""The questions that are asked most are answered in front of the routes, and never otherwise than by them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from builders import announced, deregistered, instance, left, registered
from http_support import HOST, Served, served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmoves_mesh.core.registry import Registry
from pmoves_mesh.views.http.limits import Bounds, Limits
from pmoves_mesh.views.http.quick import REQUEST_BYTES_MAX, QuickAnswers

BYTES_MAX: Final = 1 << 20
LOCAL: Final = "127.0.0.1"
ELSEWHERE: Final = "192.0.2.7"
SERVICE: Final = b"GET /api/services/rag HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY: Final = b'{"capabilities": ["rag"]}'
DISCOVER: Final = b"POST /api/discover HTTP/1.1\r\nHost: localhost\r\nContent-Length: 25\r\n\r\n" + BODY
UNLISTED: Final = b"X-Unlisted: 1\r\n\r\n"


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as here:
        await here.tell(
            announced(1, node="beta"),
            registered(2, instance("rag", "beta", capabilities=("rag", "gpu"))),
            registered(3, instance("rag", "beta", "second", capabilities=("rag",))),
        )
        await here.is_current()
        yield here


@pytest.fixture
def quick(mesh: Served) -> QuickAnswers:
    return QuickAnswers(mesh.facade, Limits(Bounds(), mesh.facade.clock))


async def exchange(mesh: Served, *segments: bytes) -> bytes:
    """Returns the answer to what is sent in these segments."""
    return (await exchanges(mesh, 1, *segments))[0]


async def exchanges(mesh: Served, count: int, *segments: bytes) -> list[bytes]:
    """Returns so many whole answers to what is sent in these segments."""
    reader, writer = await asyncio.open_connection(HOST, mesh.port)
    try:
        for segment in segments:
            writer.write(segment)
            await writer.drain()
            await asyncio.sleep(0.01)
        return [await whole(reader) for _ in range(count)]
    finally:
        writer.close()


async def whole(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head + await reader.readexactly(int(length.partition(b":")[2]))


def undated(answer: bytes) -> set[bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return {line for line in head.split(b"\r\n") if not line.startswith(b"Date: ")} | {body}


@pytest.mark.parametrize("request_", [SERVICE, DISCOVER, SERVICE.replace(b"rag", b"RAG")])
async def test_it_is_the_answer_of_the_route_to_the_last_byte(
    mesh: Served, quick: QuickAnswers, request_: bytes
):
    head, _, body = request_.partition(b"\r\n\r\n")
    by_the_route = await exchange(mesh, head + b"\r\n" + UNLISTED + body)
    at_once = quick.answer(request_, LOCAL)
    assert at_once is not None
    assert undated(at_once) == undated(by_the_route)
    assert undated(await exchange(mesh, request_)) == undated(by_the_route)


@pytest.mark.parametrize(
    "request_",
    [
        SERVICE.replace(b"rag", b"absent"),
        SERVICE.replace(b"rag", b"rag?min_position=99999999"),
        SERVICE.replace(b"rag", b"r%61g"),
        SERVICE.replace(b"GET", b"HEAD"),
        SERVICE.replace(b"GET", b"get"),
        SERVICE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        SERVICE.replace(b"Host", b"X-Host"),
        SERVICE.replace(b"\r\n\r\n", b"\r\nHost: other\r\n\r\n"),
        SERVICE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        SERVICE.replace(b"\r\n\r\n", b'\r\nIf-None-Match: "x"\r\n\r\n'),
        SERVICE.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        SERVICE.replace(b"\r\n\r\n", b"\r\nAccept: a\r\n folded\r\n\r\n"),
        SERVICE.replace(b"\r\n\r\n", b"\r\nAccept : a\r\n\r\n"),
        SERVICE.replace(b"localhost", b"local\x00host"),
        SERVICE.replace(b"\r\n", b"\n"),
        SERVICE[:-1],
        SERVICE + SERVICE,
        SERVICE + b"x",
        SERVICE.replace(b"localhost", b"a" * REQUEST_BYTES_MAX),
        DISCOVER[:-1],
        DISCOVER + b" ",
        DISCOVER.replace(b"25", b"24"),
        DISCOVER.replace(b"\r\n\r\n", b"\r\nContent-Length: 25\r\n\r\n"),
        DISCOVER.replace(b"Content-Length: 25\r\n", b""),
        DISCOVER.replace(BODY, b'{"capabilities": "ra" "g"'),
        DISCOVER.replace(b'["rag"]', b'["gag"]'),
        DISCOVER.replace(b"POST", b"GET"),
    ],
)
def test_what_is_not_exactly_a_plain_request_that_succeeds_is_left_to_the_routes(
    quick: QuickAnswers, request_: bytes
):
    assert quick.answer(request_, LOCAL) is None
    assert quick.kept == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, len(DISCOVER) - 1), byte=st.integers(0, 255), plain=st.sampled_from([SERVICE, DISCOVER])
)
async def test_no_byte_can_be_changed_so_that_it_answers_otherwise_than_the_routes(
    mesh: Served, quick: QuickAnswers, at: int, byte: int, plain: bytes
):
    changed = bytearray(plain)
    changed[at % len(plain)] = byte
    at_once = quick.answer(bytes(changed), LOCAL)
    if at_once is not None:
        head, _, body = bytes(changed).partition(b"\r\n\r\n")
        assert undated(await exchange(mesh, head + b"\r\n" + UNLISTED + body)) == undated(at_once)


async def test_a_request_in_pieces_and_several_at_once_are_answered_all_the_same(mesh: Served):
    found, chosen = undated(await exchange(mesh, SERVICE)), undated(await exchange(mesh, DISCOVER))
    assert undated(await exchange(mesh, SERVICE[:20], SERVICE[20:])) == found
    assert undated(await exchange(mesh, DISCOVER[:-3], DISCOVER[-3:])) == chosen
    together = await exchanges(mesh, 3, SERVICE + DISCOVER + SERVICE)
    assert [undated(one) for one in together] == [found, chosen, found]
    in_turn = await exchanges(mesh, 4, SERVICE, SERVICE[:9], SERVICE[9:], DISCOVER, SERVICE)
    assert [undated(one) for one in in_turn] == [found, found, chosen, found]


async def test_it_is_never_older_than_the_replica(mesh: Served, quick: QuickAnswers):
    for port in range(1000, 1020):
        record = instance("rag", "beta", port=port, capabilities=("rag",))
        await mesh.tell(registered(port, record))
        for request_ in (SERVICE, DISCOVER):
            answer = quick.answer(request_, LOCAL)
            assert answer is not None
            assert f'"port":{port}'.encode() in answer
            assert f"X-Mesh-Position: {mesh.replica.position}\r\n".encode() in answer


async def test_a_stale_replica_leaves_all_to_the_routes_which_say_so(mesh: Served, quick: QuickAnswers):
    mesh.client.disconnect()
    await mesh.is_not_current()
    assert quick.answer(SERVICE, LOCAL) is None
    assert b"X-Mesh-Stale" in await exchange(mesh, SERVICE)


def test_however_it_is_asked_it_keeps_one_answer(quick: QuickAnswers):
    for number in range(2_000):
        agent = b"\r\nUser-Agent: %d\r\n\r\n" % number
        assert quick.answer(SERVICE.replace(b"\r\n\r\n", agent), LOCAL) is not None
    assert quick.kept == 1


async def test_what_was_found_in_another_registry_is_not_told(mesh: Served, quick: QuickAnswers):
    assert [quick.answer(SERVICE, LOCAL) is not None for _ in range(3)] == [True] * 3
    mesh.replica.restore(Registry(), mesh.replica.stream_id)
    assert quick.answer(SERVICE, LOCAL) is None


def test_other_hosts_are_held_to_their_rate(mesh: Served):
    limits = Limits(Bounds(reads_per_s=1.0), mesh.facade.clock)
    quick = QuickAnswers(mesh.facade, limits)
    answers = [quick.answer(SERVICE, ELSEWHERE) for _ in range(4)]
    assert answers[0] is not None
    assert answers[3] is None
    assert quick.answer(SERVICE, LOCAL) is not None


async def test_one_choice_in_other_words_is_cut_to_each_limit(quick: QuickAnswers):
    counts = []
    for body in (
        b'{"capabilities": ["rag"], "limit": 1}',
        b'["rag"]',
        b'{"limit":2,"capabilities":["rag"]}',
        b'"rag"',
    ):
        head = b"POST /api/discover HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        answer = quick.answer(head + body, LOCAL)
        assert answer is not None
        counts.append(answer.partition(b"\r\n\r\n")[2].partition(b",")[0])
    assert counts == [b'{"count":1', b'{"count":2', b'{"count":2', b'{"count":2']


async def test_what_was_kept_is_the_answer_of_the_route_after_every_change(mesh: Served, quick: QuickAnswers):
    other = instance("tts", "gamma", port=7, capabilities=("rag",))
    third = instance("rag", "beta", "third", port=9, capabilities=("rag", "gpu"))
    for number, change in enumerate(
        (
            registered(4, third),
            registered(1, other),
            registered(2, instance("other", "gamma")),
            announced(3, node="gamma"),
            deregistered(5, third),
            left(4, "gamma"),
            registered(5, instance("rag", "gamma", capabilities=("rag",))),
        )
    ):
        await mesh.tell(change)
        for request_ in (SERVICE, SERVICE.replace(b"rag", b"tts"), DISCOVER):
            at_once = [quick.answer(request_, LOCAL) for _ in range(3)]
            head, _, body = request_.partition(b"\r\n\r\n")
            by_the_route = await exchange(mesh, head + b"\r\n" + UNLISTED + body)
            if at_once[0] is None:
                assert b" 404 " in by_the_route.partition(b"\r\n")[0], number
            else:
                assert [undated(one or b"") for one in at_once] == [undated(by_the_route)] * 3, number


async def test_an_answer_is_unmodified_until_it_changes(mesh: Served):
    tag = (await mesh.get("/api/services/rag")).headers["ETag"]
    known = {"If-None-Match": tag}
    assert f"etag: {tag}".encode() in (await exchange(mesh, SERVICE)).replace(b"Etag", b"etag")
    assert (await mesh.get("/api/services/rag", headers=known)).status == 304
    await mesh.tell(registered(1, instance("other", "gamma")))
    assert (await mesh.get("/api/services/rag", headers=known)).status == 304
    await mesh.tell(registered(4, instance("rag", "beta", "second", port=5)))
    changed = await mesh.get("/api/services/rag", headers=known)
    assert changed.status == 200
    assert changed.headers["ETag"] != tag
