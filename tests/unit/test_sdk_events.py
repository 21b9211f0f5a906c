"""The agent's stream of events as a program reads it, and changes as they are told to one reader."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdk_support import shown

from pmoves_mesh.errors import MalformedEvent
from pmoves_mesh.sdk.changes import Change, Changes
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.events import Reader, ServerEvent, fold

STREAM = (
    b"retry: 1500\n\n"
    b'event: snapshot\nid: 7\ndata: {"count":1,"services":[' + msgspec.json.encode(shown(id="a")) + b"]}\n\n"
    b": position 7\n\n"
    b"event: added\nid: 8\ndata: " + msgspec.json.encode(shown(id="b")) + b"\n\n"
    b"event: changed\r\nid: 9\r\ndata: " + msgspec.json.encode(shown(id="b", port=81)) + b"\r\n\r\n"
    b'event: removed\nid: 10\ndata: {"name":"rag","node":"alpha","id":"a"}\n\n'
    b"event: news-of-later-versions\nid: 10\ndata: 1\n\n"
    b'event: end\nid: 10\ndata: {"reason":"slow"}\n\n'
)


def test_a_stream_is_folded_up_to_its_end():
    directory = Directory()
    goes_on = [fold(directory, event) for event in Reader().feed(STREAM)]
    assert goes_on == [True] * 5 + [False]
    assert [(one.id, one.port) for one in directory] == [("b", 81)]
    assert directory.position == 10


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_it_does_not_matter_in_which_parts_a_stream_arrives(cuts: list[int]):
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = Reader()
    found: list[ServerEvent] = []
    for begin, end in itertools.pairwise(edges):
        found += reader.feed(STREAM[begin:end])
    assert found == Reader().feed(STREAM)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"services":[{"name":1}]}', b"\xff"])
def test_an_event_that_is_not_what_its_name_says_is_refused(data: bytes):
    with pytest.raises(MalformedEvent):
        fold(Directory(), ServerEvent("snapshot", 1, data))


def told(change: Change) -> tuple[str, str, int]:
    return change.kind, change.key.id, change.instance.port


async def test_a_reader_is_told_of_all_and_then_of_each_change():
    directory = Directory()
    directory.replace([shown(id="a"), shown(id="b", name="other")], 1)
    changes = Changes(directory, "rag", frozenset()).follow()
    assert told(await anext(changes)) == ("added", "a", 80)
    directory.put(shown(id="a", port=81), 2)
    assert told(await anext(changes)) == ("changed", "a", 81)
    directory.drop(shown(id="a").key, 3)
    assert told(await anext(changes)) == ("removed", "a", 81)
    await changes.aclose()


async def test_a_slow_reader_is_told_once_of_what_changed_often_and_never_of_what_came_and_went():
    directory = Directory()
    directory.replace([shown(id="a")], 1)
    changes = Changes(directory, None, frozenset()).follow()
    assert told(await anext(changes)) == ("added", "a", 80)
    for port in range(1000, 2000):
        directory.put(shown(id="a", port=port), port)
    directory.put(shown(id="brief"), 2000)
    directory.drop(shown(id="brief").key, 2001)
    directory.put(shown(id="last"), 2002)
    assert [told(await anext(changes)) for _ in range(2)] == [("changed", "a", 1999), ("added", "last", 80)]
    await changes.aclose()


async def test_an_instance_that_loses_a_capability_goes_for_whoever_looks_for_it():
    directory = Directory()
    directory.replace([shown(capabilities=("rag",))], 1)
    changes = Changes(directory, None, frozenset({"rag"})).follow()
    async with asyncio.timeout(5):
        assert (await anext(changes)).kind == "added"
        directory.put(shown(), 2)
        assert (await anext(changes)).kind == "removed"
    await changes.aclose()
