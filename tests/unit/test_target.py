"""Targets: what a probe may ask, and what it must not."""

from __future__ import annotations

import pytest

from pmoves_mesh.core.target import address_problem, canonical, is_loopback, target_problem

ALLOWED = {"10.0.0.9", "nas.example", "alpha", "fd00::1"}


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.9",
        "nas.example",
        "NAS.example.",
        "alpha",
        "fd00:0::1",
        "localhost",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
    ],
)
def test_the_services_own_host_this_node_and_loopback_may_be_asked(host: str):
    assert target_problem("http", host, ALLOWED) == ""
    assert target_problem("https", host, ALLOWED) == ""


@pytest.mark.parametrize(
    "host", ["10.0.0.8", "evil.example", "", "2130706433", "0x7f.1", "localhost.evil.example"]
)
def test_any_other_host_is_refused(host: str):
    assert target_problem("http", host, ALLOWED) == "its host is neither the service's own nor this node"


@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher", "", "unix"])
def test_any_scheme_but_http_and_https_is_refused(scheme: str):
    assert "neither http nor https" in target_problem(scheme, "10.0.0.9", ALLOWED)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("169.254.169.254", "its address is link-local"),
        ("::ffff:169.254.169.254", "its address is link-local"),
        ("64:ff9b::a9fe:a9fe", "its address is link-local"),
        ("fe80::1", "its address is link-local"),
        ("fe80::1%eth0", "its address is link-local"),
        ("fd00:ec2::254", "its address is a cloud's metadata service"),
        ("fd20:ce::254", "its address is a cloud's metadata service"),
        ("168.63.129.16", "its address is a cloud's metadata service"),
        ("100.100.100.200", "its address is a cloud's metadata service"),
        ("0.0.0.0", "its address is no host's"),
        ("::", "its address is no host's"),
        ("224.0.0.1", "its address is no host's"),
        ("255.255.255.255", "its address is no host's"),
        ("ff02::1", "its address is no host's"),
        ("nas.example", "it has no address"),
        ("2852039166", "it has no address"),
    ],
)
def test_addresses_that_hand_out_secrets_or_are_no_hosts_are_refused_even_to_their_owner(
    address: str, problem: str
):
    assert address_problem(address) == problem


def test_a_service_that_says_it_is_the_metadata_service_is_refused():
    assert target_problem("http", "169.254.169.254", {"169.254.169.254"}) == "its address is link-local"


@pytest.mark.parametrize(
    "address", ["10.0.0.9", "127.0.0.1", "::1", "100.101.102.103", "192.168.1.2", "8.8.8.8"]
)
def test_an_ordinary_address_may_be_connected_to(address: str):
    assert address_problem(address) == ""


def test_one_address_is_the_same_however_it_is_written():
    assert canonical("::FFFF:10.0.0.9") == canonical("10.0.0.9") == "10.0.0.9"
    assert canonical("FD00:0:0::1") == "fd00::1"


def test_a_name_that_only_looks_like_loopback_is_not():
    assert not is_loopback("localhost.example")
    assert not is_loopback("127.0.0.1.example")
