"""What labels ask for: from an engine's words of a container to a registration, in tables."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.agent.containers.engine import sockets_of
from pmoves_mesh.agent.containers.inspected import Container, EngineEvent
from pmoves_mesh.agent.containers.labels import Here, Wanted, is_as_wanted, wanted_by
from pmoves_mesh.core.check import DockerCheck, GrpcCheck, HttpCheck, TcpCheck
from pmoves_mesh.core.registration import check_of, instance_of
from pmoves_mesh.errors import InvalidFieldError

HERE = Here("100.64.0.7", "docked")
ID = "4f1c" * 16
EVERYWHERE = [{"HostIp": "0.0.0.0", "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32769"}]


def container(labels: dict[str, str] | None = None, **ports: Any) -> Container:
    """Returns what an engine says; `tcp_8080=[...]` is where a port is published."""
    published = {f"{name.split('_')[1]}/{name.split('_')[0]}": where for name, where in ports.items()}
    said = {
        "Id": ID,
        "Name": "/rag_1",
        "State": {"Running": True, "Status": "running", "Health": None},
        "Config": {"Image": "rag:7", "Labels": {"pmoves.mesh.name": "rag", **(labels or {})}},
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Ports": published},
    }
    return msgspec.convert(said, Container)


def wanted(labels: dict[str, str] | None = None, here: Here = HERE, **ports: Any) -> Wanted:
    one = container(labels, **ports)
    return wanted_by(one, one, here)


def refused(labels: dict[str, str] | None = None, **ports: Any) -> str:
    with pytest.raises(InvalidFieldError) as caught:
        wanted(labels, **ports)
    return str(caught.value)


# Where it is


@pytest.mark.parametrize(
    ("node_host", "bindings", "place"),
    [
        ("100.64.0.7", EVERYWHERE, ("100.64.0.7", 32768)),
        ("fd7a::7", EVERYWHERE, ("fd7a::7", 32769)),
        ("100.64.0.7", [{"HostIp": "", "HostPort": "80"}], ("100.64.0.7", 80)),
        ("100.64.0.7", [{"HostIp": "::", "HostPort": "80"}], ("100.64.0.7", 80)),
        ("100.64.0.7", [{"HostIp": "192.168.1.2", "HostPort": "80"}], ("192.168.1.2", 80)),
        ("100.64.0.7", [{"HostIp": "127.0.0.1", "HostPort": "1"}, *EVERYWHERE], ("100.64.0.7", 32768)),
        ("127.0.0.1", [{"HostIp": "127.0.0.1", "HostPort": "80"}], ("127.0.0.1", 80)),
        (
            "100.64.0.7",
            [{"HostIp": "192.168.1.2", "HostPort": "80"}, {"HostIp": "100.64.0.7", "HostPort": "81"}],
            ("100.64.0.7", 81),
        ),
    ],
)
def test_others_are_told_the_published_place_that_suits_them_best(
    node_host: str, bindings: list[dict[str, str]], place: tuple[str, int]
):
    found = wanted(here=Here(node_host, "docked"), tcp_8080=bindings).registration
    assert (found.host, found.port) == place


def test_a_container_without_a_published_port_has_no_endpoint():
    assert wanted(tcp_8080=None).registration.port == 0
    assert wanted({"pmoves.mesh.port": "0"}, tcp_8080=EVERYWHERE).registration.port == 0


def test_the_only_port_of_tcp_is_meant_where_others_are_of_udp():
    one = [{"HostIp": "", "HostPort": "53"}]
    assert wanted(tcp_5353=EVERYWHERE, udp_5353=one).registration.port == 32768
    assert wanted({"pmoves.mesh.port": "5353/udp"}, tcp_5353=EVERYWHERE, udp_5353=one).registration.port == 53


def test_a_host_may_be_named():
    found = wanted(
        {"pmoves.mesh.host": "rag.example"}, tcp_80=[{"HostIp": "127.0.0.1", "HostPort": "80"}, *EVERYWHERE]
    )
    assert found.registration.host == "rag.example"


@pytest.mark.parametrize(
    ("labels", "ports", "said"),
    [
        ({"pmoves.mesh.name": "no name"}, {}, "pmoves.mesh.name: 'no name' is not one DNS label"),
        ({"pmoves.mesh.port": "70000"}, {}, "pmoves.mesh.port: '70000' is not a port"),
        (
            {"pmoves.mesh.port": "81"},
            {"tcp_80": EVERYWHERE},
            "port 81/tcp of the container is not published (80/tcp)",
        ),
        (
            {},
            {"tcp_80": [{"HostIp": "127.0.0.1", "HostPort": "80"}]},
            "published on 127.0.0.1 alone, which no other",
        ),
        (
            {},
            {"tcp_80": EVERYWHERE, "tcp_81": EVERYWHERE},
            "is missing, and several are published: 80/tcp, 81/tcp",
        ),
        (
            {"pmoves.mesh.port": "80", "pmoves.mesh.ports.b": "81"},
            {"tcp_80": EVERYWHERE, "tcp_81": [{"HostIp": "10.0.0.1", "HostPort": "81"}]},
            "pmoves.mesh.ports.b: is published on another address",
        ),
        ({"pmoves.mesh.health": "tcp"}, {}, "pmoves.mesh.health: 'tcp' needs a port"),
        ({"pmoves.mesh.id": "a b"}, {}, "pmoves.mesh.id: 'a b' is not 1 to 63 letters"),
        ({"pmoves.mesh.capabilities": "a,*"}, {}, "pmoves.mesh.capabilities[1]: '*' is not"),
        (
            {"pmoves.mesh.deregister_after": "soon"},
            {},
            "pmoves.mesh.deregister_after: 'soon' is not a number",
        ),
    ],
)
def test_what_cannot_be_used_names_its_label(labels: dict[str, str], ports: dict[str, Any], said: str):
    assert said in refused(labels, **ports)


# What it is


@pytest.mark.parametrize(
    ("text", "check", "url"),
    [
        ("", DockerCheck(container=ID, rise=1, fall=1), None),
        ("docker", DockerCheck(container=ID, rise=1, fall=1), None),
        ("none", None, None),
        ("TCP", TcpCheck(), None),
        ("grpc", GrpcCheck(), None),
        ("/healthz", HttpCheck(), "http://100.64.0.7:32768/healthz"),
        ("http://rag.example/up", HttpCheck(), "http://rag.example/up"),
    ],
)
def test_a_label_says_how_its_health_is_found(text: str, check: Any, url: str | None):
    found = wanted({"pmoves.mesh.health": text}, tcp_8080=EVERYWHERE).registration
    assert (found.check, found.health_url) == (check, url)


def test_an_address_with_colons_is_put_in_brackets_in_a_url():
    labels, here = {"pmoves.mesh.health": "/up"}, Here("fd7a::7", "docked")
    assert wanted(labels, here, tcp_80=EVERYWHERE).registration.health_url == "http://[fd7a::7]:32769/up"


def test_its_id_is_its_name_and_its_metadata_says_which_container_it_is():
    found = wanted({"pmoves.mesh.metadata.team": "core"})
    assert found.id == "rag_1"
    assert found.registration.metadata == {
        "team": "core",
        "container": {"id": ID[:12], "name": "rag_1", "image": "rag:7"},
    }


@pytest.mark.parametrize("here", [HERE, Here("fd7a::7", "standalone")])
def test_what_was_registered_is_as_wanted_and_one_that_was_changed_is_not(here: Here):
    labels = {
        "pmoves.mesh.capabilities": " a , b,a",
        "pmoves.mesh.ports.Second": "81",
        "pmoves.mesh.port": "80",
    }
    asked = wanted(labels, here, tcp_80=EVERYWHERE, tcp_81=EVERYWHERE).registration
    record = instance_of(asked, node="alpha", node_host=here.host, node_mode="docked", held=None, now="")
    check, record = check_of(asked, record, held=None, held_check=None)
    assert is_as_wanted(record, check, asked)
    assert not is_as_wanted(msgspec.structs.replace(record, port=1), check, asked)
    assert not is_as_wanted(record, TcpCheck(), asked)


# Whatever engines and people write


_TEXT = st.sampled_from(
    ["", "0", "80", "80/tcp", "udp", "/x", "none", "tcp", "http://h/", "-1", "a,b", " ", "é", "1e400"]
)
_LABELS = st.dictionaries(
    st.sampled_from(
        [
            "port",
            "ports.a",
            "ports.A B",
            "host",
            "id",
            "mode",
            "capabilities",
            "health",
            "deregister_after",
            "x",
        ]
    ).map("pmoves.mesh.".__add__),
    _TEXT,
)
_BINDINGS = st.none() | st.lists(
    st.fixed_dictionaries(
        {"HostIp": st.sampled_from(["", "::", "0.0.0.0", "127.0.0.1", "x"]), "HostPort": _TEXT}
    )
)


@given(
    labels=_LABELS,
    name=st.text(max_size=80),
    tcp=_BINDINGS,
    udp=_BINDINGS,
    network=st.sampled_from(["host", "bridge", ""]),
)
def test_whatever_is_labelled_is_registered_or_refused_by_name(
    labels: dict[str, str], name: str, tcp: Any, udp: Any, network: str
):
    one = container(labels, tcp_80=tcp, udp_80=udp)
    one = msgspec.structs.replace(
        one, name=name, host_config=msgspec.structs.replace(one.host_config, network_mode=network)
    )
    try:
        asked = wanted_by(one, one, HERE)
        record = instance_of(
            asked.registration, node="alpha", node_host=HERE.host, node_mode="docked", held=None, now=""
        )
        check, record = check_of(asked.registration, record, held=None, held_check=None)
    except InvalidFieldError:
        return
    assert (record.name, record.id) == (asked.service, asked.id)
    assert is_as_wanted(record, check, asked.registration)


# What engines say


@pytest.mark.parametrize(
    ("line", "tells", "of_health"),
    [
        (b'{"Type":"container","Action":"die","status":"die","id":"a","Actor":{"ID":"a"}}', True, False),
        (b'{"Type":"container","Action":"died","status":"died","Actor":{"ID":"a"}}', True, False),
        (b'{"status":"remove","id":"a"}', True, False),
        (b'{"Action":"health_status: unhealthy","Actor":{"ID":"a","Attributes":{"name":"x"}}}', True, True),
        (
            b'{"Action":"health_status","Actor":{"ID":"a","Attributes":{"health_status":"healthy"}}}',
            True,
            True,
        ),
        (b'{"Action":"exec_create: /bin/true","Actor":{"ID":"a"}}', False, False),
        (b'{"Action":"attach","Actor":{"ID":"a"}}', False, False),
    ],
)
def test_the_events_of_docker_and_of_podman_are_understood(line: bytes, tells: bool, of_health: bool):
    event = msgspec.json.decode(line, type=EngineEvent)
    assert (event.container, event.tells, event.is_of_health) == ("a", tells, of_health)


@pytest.mark.parametrize(
    ("status", "running", "serves"),
    [
        ("running", True, True),
        ("paused", True, False),
        ("restarting", True, False),
        ("exited", False, False),
        ("created", False, False),
    ],
)
def test_only_a_container_that_runs_serves(status: str, running: bool, serves: bool):
    said = {"State": {"Status": status, "Running": running}}
    assert msgspec.convert(said, Container).serves is serves


def test_a_socket_that_is_set_is_the_only_one_asked():
    assert [str(path) for path in sockets_of("/run/engine.sock")] == ["/run/engine.sock"]
    assert [path.parent.name for path in sockets_of("")][1:] == ["podman", "podman"]
