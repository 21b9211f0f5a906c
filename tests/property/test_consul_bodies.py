"""Whatever a Consul client sends is a registration, or refused by the name of a field."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.bodies import EntityWanted, ServiceWanted, decode
from pmoves_mesh.views.http.consul.kept import id_of, instance_id_of, kept_of, meta_of, tags_of
from pmoves_mesh.views.http.consul.registering import Setting, registration_of

AT = Setting(host="10.0.0.1", names=("alpha",))

plain = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 70000), st.floats(allow_nan=False), st.text(max_size=8)
)
json = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
texts = st.text(min_size=1, max_size=40)
keys = st.sampled_from(
    [
        "ID",
        "name",
        "Tags",
        "tagged_addresses",
        "TaggedAddresses",
        "meta",
        "Port",
        "address",
        "Weights",
        "Check",
    ]
)
check_keys = st.sampled_from(["TTL", "http", "TCP", "grpc", "Interval", "args", "Script", "Header", "Status"])
check_values = st.one_of(json, st.sampled_from(["5s", "127.0.0.1:1", "http://10.0.0.1/", ":1", "[::1]:1/x"]))
bodies = st.builds(
    lambda fields, name, check: {"Name": name, "Check": check, **fields},
    st.dictionaries(keys, json, max_size=5),
    st.sampled_from(["web", "My_Web", "", "-"]),
    st.dictionaries(check_keys, check_values, max_size=4),
)


def registered(body: Any) -> Registration | None:
    try:
        return registration_of(decode(msgspec.json.encode(body), ServiceWanted), AT)
    except InvalidFieldError:
        return None


@given(body=st.one_of(bodies, json))
def test_a_body_becomes_a_registration_or_is_refused(body: Any):
    made = registered(body)
    assert made is None or msgspec.json.encode(made.metadata)


@given(body=st.one_of(bodies, json))
def test_a_body_for_the_catalogue_is_read_or_refused(body: Any):
    try:
        decode(msgspec.json.encode({"Node": "x", "Service": body}), EntityWanted)
    except InvalidFieldError:
        return


@given(
    service_id=texts.filter(lambda text: text.isprintable() and bool(text.strip())),
    tags=st.lists(st.one_of(texts, st.sampled_from(["stt", "gpu:1"])), max_size=8),
    meta=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), st.text(max_size=20), max_size=4
    ),
)
def test_id_tags_and_meta_come_back_as_they_were_sent(service_id: str, tags: list[str], meta: dict[str, str]):
    made = registered({"Name": "web", "ID": service_id, "Tags": tags, "Meta": meta})
    assert made is not None
    assert isinstance(made.capabilities, list)
    assert isinstance(made.metadata, dict)
    record = Instance(
        name="web",
        id=instance_id_of(service_id),
        node="alpha",
        host="10.0.0.1",
        capabilities=tuple(made.capabilities),
        metadata=msgspec.json.decode(msgspec.json.encode(made.metadata)),
    )
    kept = kept_of(record)
    assert id_of(record, kept) == service_id
    assert list(tags_of(record, kept)) == list(tags)
    assert meta_of(record, kept) == meta
