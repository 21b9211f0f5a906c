"""The setting that makes the embedded servers of several hosts one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmoves_mesh.agent.trust.joining import nats_urls
from pmoves_mesh.cli.check_firewall import offered
from pmoves_mesh.config import Config, load
from pmoves_mesh.errors import ConfigError

NAMES = "alpha,beta,gamma"


def read(tmp_path: Path, cluster: str = NAMES, **settings: str) -> Config:
    own = {"MESH_HOSTNAME": "alpha", "PMOVES_NATS_HOST": "0.0.0.0", "PMOVES_NATS_CLUSTER": cluster}
    return load({**own, **settings}, tmp_path)


def problem(tmp_path: Path, cluster: str = NAMES, **settings: str) -> str:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, cluster, **settings)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_without_the_setting_a_server_is_alone(tmp_path: Path):
    assert load({}, tmp_path).nats_cluster == ()


def test_a_name_is_its_own_address(tmp_path: Path):
    assert [one.place for one in read(tmp_path).nats_cluster] == ["alpha:6222", "beta:6222", "gamma:6222"]


def test_an_address_and_a_port_may_be_named(tmp_path: Path):
    text = " Alpha = 10.0.0.1 , beta=[fd7a::2]:7000, gamma=fd7a::3,delta=vps.example.com:1, epsilon"
    found = read(tmp_path, text, PMOVES_NATS_ROUTES_PORT="7222").nats_cluster
    assert [(one.name, one.place) for one in found] == [
        ("alpha", "10.0.0.1:7222"),
        ("beta", "[fd7a::2]:7000"),
        ("gamma", "[fd7a::3]:7222"),
        ("delta", "vps.example.com:1"),
        ("epsilon", "epsilon:7222"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alpha", "odd number"),
        ("alpha,beta", "odd number"),
        ("alpha,beta,gamma,delta", "odd number"),
        ("alpha,beta,beta", "once"),
        ("alpha=a,beta=a,gamma", "once"),
        ("delta,beta,gamma", "which is alpha"),
        ("alpha,beta,", "not"),
        ("alpha,be ta,gamma", "not"),
        ("alpha,beta=,gamma", "not a host name"),
        ("alpha,beta=b:0,gamma", "no port"),
        ("alpha,beta=b:70000,gamma", "no port"),
        ("alpha,beta=b:x,gamma", "no port"),
        ("alpha,beta=nats://b:4,gamma", "not a host name"),
    ],
)
def test_what_cannot_be_a_cluster_is_refused_in_one_line(tmp_path: Path, text: str, said: str):
    found = problem(tmp_path, text)
    assert said in found
    assert "PMOVES_NATS_CLUSTER" in found


def test_a_server_that_nobody_reaches_cannot_be_one_of_a_cluster(tmp_path: Path):
    assert "PMOVES_NATS_HOST" in problem(tmp_path, PMOVES_NATS_HOST="127.0.0.1")


def test_a_guest_of_another_server_cannot_be_one_of_a_cluster(tmp_path: Path):
    assert "PMOVES_NATS_DIR" in problem(tmp_path, PMOVES_NATS_DIR=str(tmp_path))


def test_it_outranks_where_a_joined_host_was_told_that_nats_is(tmp_path: Path):
    config = read(tmp_path, NATS_URL="tls://10.9.9.9:4222", PMOVES_NATS_PORT="4333")
    assert config.embedded
    assert config.secured
    assert config.mesh_tls
    assert config.nats_servers == ("tls://127.0.0.1:4333", "tls://beta:4333", "tls://gamma:4333")


def test_a_node_that_works_alone_at_times_does_so_on_its_own_server(tmp_path: Path):
    config = read(tmp_path, SERVICE_MODE="standalone", NATS_EXTERNAL_URL="tls://hub:4222")
    assert config.embedded
    assert not config.visits_hub


def test_who_joins_is_told_where_all_servers_of_the_cluster_are(tmp_path: Path):
    text = "alpha=10.0.0.1,beta=10.0.0.2,gamma=fd7a::3"
    config = read(tmp_path, text, PMOVES_ADVERTISE_HOST="10.0.0.1")
    assert nats_urls(config) == ("tls://10.0.0.1:4222", "tls://10.0.0.2:4222", "tls://[fd7a::3]:4222")


def test_doctor_looks_whether_the_others_reach_the_port_of_the_routes(tmp_path: Path):
    assert offered(read(tmp_path, "alpha=a:7000,beta,gamma")) == (4222, 7000)
