"""The language of `filter`: what fits, and what is refused with a reason."""

from __future__ import annotations

import pytest

from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.filter import EXPRESSION_LENGTH_MAX, compile_filter
from pmoves_mesh.views.http.consul.shapes import (
    CheckShape,
    HealthShape,
    NodeShape,
    ServiceShape,
    Weights,
)

ITEM = HealthShape(
    node=NodeShape(
        id="6b1ad4b0", node="alpha", address="10.0.0.1", datacenter="mesh", tagged_addresses={}, meta={}
    ),
    service=ServiceShape(
        id="web-1",
        service="web",
        tags=("v1", "a b", "urlprefix-/"),
        address="",
        tagged_addresses={},
        meta={"env": "qa", "a.b": "dotted", "empty": ""},
        port=8080,
        weights=Weights(),
        enable_tag_override=False,
        datacenter="mesh",
    ),
    checks=(
        CheckShape(node="alpha", check_id="serfHealth", name="Serf", status="passing"),
        CheckShape(node="alpha", check_id="web", name="Web", status="warning", service_id="web-1"),
    ),
)


@pytest.mark.parametrize(
    "text",
    [
        'Service.Service == "web"',
        "Service.Service == web",
        "Service.Service == `web`",
        "Service.Port == 8080",
        'Service.Port != "80"',
        "Service.EnableTagOverride == false",
        "v1 in Service.Tags",
        '"a b" in Service.Tags',
        "v2 not in Service.Tags",
        "Service.Tags contains `urlprefix-/`",
        "Service.Tags not contains v2",
        "Service.Address is empty",
        "Service.Tags is not empty",
        "Node.Meta is empty",
        'Service.Meta.env == "qa"',
        'Service.Meta["a.b"] == "dotted"',
        "Service.Meta[`a.b`] matches `^dot`",
        "env in Service.Meta",
        "Service.Meta contains env",
        'Service.Meta.missing != "qa"',
        'not Service.Meta.missing == "qa"',
        "Service.Meta.empty is empty",
        'Service.ID matches "^web-[0-9]+$"',
        'Service.ID not matches "^api"',
        '"eb-" in Service.ID',
        'Checks.Status == "warning"',
        "Checks.Status != critical",
        "Service.Service == api or Service.Service == web and Node.Node == alpha",
        "(Service.Service == web or Service.Port == 1) and not (Node.Node == beta)",
        '"/Service/Meta/a.b" == dotted',
        '\n Service.Service\t==  "web" ',
        'Service.Service == "\\u0077eb"',
    ],
)
def test_an_instance_fits(text: str):
    assert compile_filter(text, HealthShape)(ITEM)


@pytest.mark.parametrize(
    "text",
    [
        "Service.Service == api",
        "Service.Service != web",
        "v2 in Service.Tags",
        "v1 not in Service.Tags",
        "Service.Tags is empty",
        "Service.Address is not empty",
        "Service.Meta.missing == qa",
        "Service.Meta.missing is not empty",
        'Service.ID matches "^eb"',
        "Checks.Status == critical",
        "Service.Service == web and Node.Node == beta",
        "not Service.Service == web",
        "not (Service.Service == api or Service.Service == web)",
    ],
)
def test_an_instance_does_not_fit(text: str):
    assert not compile_filter(text, HealthShape)(ITEM)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Service.Nothing == 1", "no 'Service.Nothing'"),
        ("Nothing == 1", "no 'Nothing'"),
        ("Service.Service.More == 1", "no 'Service.Service.More'"),
        ("Service.Port == many", "no whole number"),
        ("Service.EnableTagOverride == perhaps", "neither true nor false"),
        ("Service.Port matches `1`", "cannot be compared"),
        ("Service.Tags == v1", "cannot be compared"),
        ("Service.Port is empty", "cannot be compared"),
        ('"web" == Service.Service', "no selector"),
        ("Service.Service =", "cannot be read from"),
        ("Service.Service == web and", "ends too early"),
        ("(Service.Service == web", "ends too early"),
        ("Service.Service", "ends too early"),
        ("Service.ID matches `(`", "regular expression"),
        (f"Service.ID matches `{'a' * 300}`", "at most 256"),
        ("Service.ID matches `(a{200}){200}`", "too large"),
        (f"Service.ID == `{'a' * EXPRESSION_LENGTH_MAX}`", f"at most {EXPRESSION_LENGTH_MAX}"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_reason(text: str, reason: str):
    with pytest.raises(InvalidFieldError, match=reason.replace("(", r"\(")) as refused:
        compile_filter(text, HealthShape)
    assert refused.value.field == "filter"


def test_parentheses_may_be_nested_as_deep_as_a_filter_is_long():
    depth = EXPRESSION_LENGTH_MAX // 2 - 10
    assert compile_filter("(" * depth + "Node.Node == alpha" + ")" * depth, HealthShape)(ITEM)


def test_negations_beyond_a_depth_are_refused():
    with pytest.raises(InvalidFieldError, match="nested too deep"):
        compile_filter("not " * (EXPRESSION_LENGTH_MAX // 4 - 10) + "Node.Node == alpha", HealthShape)
