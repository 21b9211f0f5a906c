"""What applications tell one another, read as the many hands wrote it that send it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.application import (
    KINDS,
    ApplicationEvent,
    FileAdded,
    Place,
    ToolExecuted,
    TranscriptReady,
    read,
    time_of,
    write,
)
from pmoves_mesh.errors import InvalidFieldError

SUBJECTS = [kind.subject for kind in KINDS]


def told(subject: str, fields: Any) -> ApplicationEvent:
    return read(subject, json.dumps(fields).encode()).event


def test_a_bare_event_is_read():
    fields = {
        "file_id": "f1",
        "bucket": "assets",
        "key": "a.pdf",
        "mime_type": "application/pdf",
        "size_bytes": 7,
        "timestamp": "2025-12-06T12:00:00Z",
        "uploader": "pdf-ingest",
    }
    event = told("ingest.file.added.v1", fields)
    assert event == FileAdded(**fields)


def test_an_event_in_its_envelope_is_read_with_what_the_envelope_says():
    payload = {
        "video_id": "v1",
        "duration_seconds": 3600,
        "storage": {"bucket": "assets", "key": "transcripts/v1.txt"},
    }
    envelope = {
        "id": "e1",
        "topic": "ingest.transcript.ready.v1",
        "ts": "2025-12-06T12:00:00.5+00:00Z",
        "version": "v1",
        "source": "ffmpeg-whisper",
        "payload": payload,
        "parent_id": "e0",
    }
    found = read("ingest.transcript.ready.v1", json.dumps(envelope).encode())
    storage = Place(bucket="assets", key="transcripts/v1.txt")
    assert found.event == TranscriptReady(video_id="v1", duration_seconds=3600, storage=storage)
    assert (found.id, found.source, found.parent_id, found.correlation_id) == (
        "e1",
        "ffmpeg-whisper",
        "e0",
        "",
    )
    assert time_of(found.ts) == datetime(2025, 12, 6, 12, 0, 0, 500_000, UTC)


def test_fields_that_are_unknown_or_wrong_or_named_otherwise_are_no_obstacle():
    fields = {"tool_name": "Bash", "success": "maybe", "session_id": 12, "user": None, "more": [1]}
    assert told("claude.code.tool.executed.v1", fields) == ToolExecuted(tool="Bash", session_id="12")
    odd = {"size": "12", "content_type": "text/plain", "bucket": ["assets"], "meta": {"a": 1}}
    assert told("ingest.file.added.v1", odd) == FileAdded(
        size_bytes=12, mime_type="text/plain", meta={"a": 1}
    )


def test_a_payload_field_alone_makes_no_envelope():
    assert told("ingest.file.added.v1", {"payload": {"key": "inner"}, "key": "outer"}).key == "outer"  # type: ignore[union-attr]


@pytest.mark.parametrize("payload", [b"", b"[1]", b"\xff", b"7", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(payload: bytes):
    with pytest.raises(InvalidFieldError, match="payload"):
        read("ingest.file.added.v1", payload)


def test_a_subject_that_nobody_knows_is_refused_with_those_that_are_known():
    with pytest.raises(InvalidFieldError, match=r"ingest\.file\.added\.v1, ingest"):
        read("ingest.other.v1", b"{}")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-12-06T12:00:00Z", datetime(2025, 12, 6, 12, tzinfo=UTC)),
        ("2025-12-06T12:00:00+00:00Z", datetime(2025, 12, 6, 12, tzinfo=UTC)),
        ("2025-12-06T14:00:00+02:00", datetime(2025, 12, 6, 12, tzinfo=UTC)),
        ("2025-12-06T12:00:00", datetime(2025, 12, 6, 12, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_time_is_read_as_it_is_written_in_the_field(text: str, time: datetime | None):
    assert time_of(text) == time


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = sorted({field.encode_name for kind in KINDS for field in msgspec.structs.fields(kind)})


@given(st.sampled_from(SUBJECTS), st.dictionaries(st.sampled_from([*names, "payload", "id"]), json_values))
def test_whatever_object_somebody_sends_is_read(subject: str, fields: dict[str, Any]):
    assert type(told(subject, fields)).subject == subject


texts = st.text(max_size=20)
events = st.one_of(
    st.builds(FileAdded, file_id=texts, key=texts, size_bytes=st.none() | st.integers(0, 2**53)),
    st.builds(TranscriptReady, video_id=texts, storage=st.none() | st.builds(Place, key=texts)),
    st.builds(ToolExecuted, tool=texts, success=st.none() | st.booleans()),
)


@given(events, texts)
def test_what_is_written_is_read_again(event: ApplicationEvent, source: str):
    found = read(event.subject, write(event, "e1", source, "2030-01-01T00:00:00Z"))
    assert (found.event, found.id, found.source, found.topic) == (event, "e1", source, event.subject)
