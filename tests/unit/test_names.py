"""Names: what may be called what."""

from __future__ import annotations

import msgspec
import pytest

from pmoves_mesh.core.names import (
    Capability,
    Host,
    InstanceId,
    Label,
    Port,
    is_capability,
    parse_capabilities,
    parse_host,
    parse_instance_id,
    parse_label,
    sanitise_label,
    shown,
    spiffe_id,
)
from pmoves_mesh.errors import InvalidFieldError

GOOD_LABELS = ["a", "0", "a-b", "node-7", "a" * 63]
BAD_LABELS = ["", "-a", "a-", "a.b", "a_b", "a b", "a" * 64, "é", "a\n"]
GOOD_IDS = ["a", "A_b-9", "8080", "x" * 63]
BAD_IDS = ["", "_a", "a_", "-a", "a.b", "x" * 64, "a\n"]
GOOD_CAPABILITIES = ["rag", "gpu:rtx5090", "vram:32gb", "cuda:12.8", "c++", "tier:data/x y", "x" * 64]
BAD_CAPABILITIES = ["", "-x", "x-", "x" * 65, "ü", "a\tb", "a*b"]
GOOD_HOSTS = ["alpha", "10.0.0.1", "::1", "[::1]", "fe80::1%eth0", "a.b_c.example", "h" * 253]
BAD_HOSTS = ["", "http://x", "a b", "-a", "h" * 254, "x/y", "é"]


@pytest.mark.parametrize("text", GOOD_LABELS)
def test_a_dns_label_is_a_name(text: str):
    assert parse_label(text, "name") == text
    assert msgspec.convert(text, Label) == text


@pytest.mark.parametrize("text", BAD_LABELS)
def test_what_is_no_dns_label_is_refused_in_an_event_too(text: str):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Label)


@pytest.mark.parametrize("text", [bad for bad in BAD_LABELS if bad != "a\n"])
def test_a_refused_name_tells_the_field_and_the_rule(text: str):
    with pytest.raises(InvalidFieldError, match=r"service: .* is not one DNS label") as refused:
        parse_label(text, "service")
    assert refused.value.field == "service"


def test_a_typed_name_is_trimmed_and_lower_cased():
    assert parse_label("  Jetson-1\n", "node") == "jetson-1"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Main PC", "main-pc"),
        ("host.example.org", "host-example-org"),
        ("__x__", "x"),
        ("É" + "a" * 70, "a" * 62),
        ("a" * 62 + "_b", "a" * 62),
    ],
)
def test_a_host_name_is_made_into_a_label(text: str, name: str):
    assert sanitise_label(text, "node") == name


@pytest.mark.parametrize("text", ["", " ", "___", "é"])
def test_a_host_name_without_letter_or_digit_makes_no_label(text: str):
    with pytest.raises(InvalidFieldError, match="no letter or digit") as refused:
        sanitise_label(text, "NODE_NAME")
    assert refused.value.field == "NODE_NAME"


@pytest.mark.parametrize("text", GOOD_IDS)
def test_an_instance_id_keeps_its_case(text: str):
    assert parse_instance_id(text) == text
    assert msgspec.convert(text, InstanceId) == text


@pytest.mark.parametrize("text", BAD_IDS)
def test_what_is_no_instance_id_is_refused(text: str):
    with pytest.raises(InvalidFieldError, match="letters, digits") as refused:
        parse_instance_id(text)
    assert refused.value.field == "id"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, InstanceId)


@pytest.mark.parametrize("text", GOOD_CAPABILITIES)
def test_a_capability_may_carry_a_value(text: str):
    assert is_capability(text)
    assert msgspec.convert(text, Capability) == text


@pytest.mark.parametrize("text", BAD_CAPABILITIES)
def test_what_is_no_capability_is_refused_and_its_place_named(text: str):
    assert not is_capability(text)
    with pytest.raises(InvalidFieldError, match="1 to 64 letters") as refused:
        parse_capabilities(["rag", text])
    assert refused.value.field == "capabilities[1]"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Capability)


def test_capabilities_are_trimmed_and_stand_once_in_their_order():
    assert parse_capabilities(["tts", " rag ", "tts"]) == ("tts", "rag")
    assert parse_capabilities([]) == ()


def test_there_are_at_most_64_capabilities():
    names = [f"c{number}" for number in range(65)]
    assert len(parse_capabilities(names[:64])) == 64
    with pytest.raises(InvalidFieldError, match="65 given, at most 64") as refused:
        parse_capabilities(names, "NODE_CAPABILITIES")
    assert refused.value.field == "NODE_CAPABILITIES"


@pytest.mark.parametrize("text", GOOD_HOSTS)
def test_a_host_is_a_name_or_an_address(text: str):
    assert parse_host(f" {text} ") == text
    assert msgspec.convert(text, Host) == text


@pytest.mark.parametrize("text", BAD_HOSTS)
def test_what_is_no_host_is_refused(text: str):
    with pytest.raises(InvalidFieldError, match="not a host name or an IP address") as refused:
        parse_host(text)
    assert refused.value.field == "host"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Host)


@pytest.mark.parametrize(("value", "good"), [(0, True), (65535, True), (-1, False), (65536, False)])
def test_a_port_is_0_to_65535(value: int, *, good: bool):
    if good:
        assert msgspec.convert(value, Port) == value
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(value, Port)


def test_a_shown_value_fits_one_short_line():
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 500) == f"'{'x' * 75}..."
    assert len(shown("x" * 500)) == 79


def test_a_spiffe_id_has_the_mesh_as_its_trust_domain():
    assert spiffe_id("pmoves-mesh", "node", "jetson") == "spiffe://pmoves-mesh/node/jetson"
