"""How Tailscale gets onto a host, and what its settings may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmoves_mesh.config import load
from pmoves_mesh.errors import ConfigError
from pmoves_mesh.tailscale.installing import System, install_steps, start_steps
from pmoves_mesh.tailscale.program import up_arguments

SUDO = ("sudo",)
UBUNTU = {"ID": "ubuntu", "VERSION_CODENAME": "jammy"}


def system(kernel: str, release: dict[str, str], *programs: str) -> System:
    return System(kernel, release, programs.__contains__)


def lines(found: System) -> list[str]:
    return [step.line(SUDO) for step in (*install_steps(found, "scripts/i.sh"), *start_steps(found))]


def test_debian_and_ubuntu_get_the_vendors_package_source():
    found = lines(system("Linux", UBUNTU, "apt-get", "curl", "systemctl"))
    assert [line.split(" --location ")[-1] for line in found] == [
        (
            "--output /usr/share/keyrings/tailscale-archive-keyring.gpg "
            "https://pkgs.tailscale.com/stable/ubuntu/jammy.noarmor.gpg"
        ),
        (
            "--output /etc/apt/sources.list.d/tailscale.list "
            "https://pkgs.tailscale.com/stable/ubuntu/jammy.tailscale-keyring.list"
        ),
        "sudo apt-get update --quiet=2",
        "sudo apt-get install --quiet=2 --yes tailscale",
        "sudo systemctl enable --now tailscaled",
    ]
    assert all(line.startswith("sudo ") for line in found)


def test_a_mac_gets_it_from_homebrew_which_never_runs_as_root():
    assert lines(system("Darwin", {}, "brew")) == [
        "brew install tailscale",
        "sudo brew services start tailscale",
    ]


@pytest.mark.parametrize("release", [{"ID": "fedora"}, {"ID": "debian"}, {}])
def test_every_other_host_gets_the_vendors_script_which_is_kept_whole_before_it_runs(release: dict[str, str]):
    fetch, install, *_ = lines(system("Linux", release, "apt-get", "curl"))
    assert fetch.endswith("--output scripts/i.sh https://tailscale.com/install.sh")
    assert install == "sudo sh scripts/i.sh"


def test_a_host_whose_services_are_unknown_is_not_told_how_to_start_one():
    assert start_steps(system("Linux", {})) == ()


def test_openrc_starts_it_now_and_with_the_host():
    assert [step.line(()) for step in start_steps(system("Linux", {}, "rc-service"))] == [
        "rc-update add tailscale",
        "rc-service tailscale start",
    ]


def test_the_settings_become_flags(tmp_path: Path):
    environ = {
        "TAILSCALE_LOGIN_SERVER": "https://mesh.example/",
        "TAILSCALE_TAGS": "tag:pmoves, tag:jetson",
        "TAILSCALE_ACCEPT_ROUTES": "false",
        "TAILSCALE_ADVERTISE_ROUTES": "192.168.1.0/24,fd00::/64",
        "TAILSCALE_TIMEOUT": "20",
    }
    assert up_arguments("alpha", None, load(environ, tmp_path).tailscale) == (
        "up",
        "--hostname=alpha",
        "--accept-routes=false",
        "--login-server=https://mesh.example",
        "--advertise-tags=tag:pmoves,tag:jetson",
        "--advertise-routes=192.168.1.0/24,fd00::/64",
        "--timeout=20s",
    )


def test_no_tags_are_asked_for_when_the_setting_says_none(tmp_path: Path):
    assert load({"TAILSCALE_TAGS": "none"}, tmp_path).tailscale.tags == ()
    assert load({}, tmp_path).tailscale.tags == ("tag:pmoves",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAILSCALE_TAGS", "pmoves"),
        ("TAILSCALE_TAGS", "tag:a b"),
        ("TAILSCALE_ADVERTISE_ROUTES", "192.168.1.1/24"),
        ("TAILSCALE_ADVERTISE_ROUTES", "--reset"),
        ("TAILSCALE_LOGIN_SERVER", "mesh.example"),
        ("TAILSCALE_LOGIN_SERVER", "https://user@mesh.example"),
        ("TAILSCALE_ACCEPT_ROUTES", "maybe"),
        ("TAILSCALE_TIMEOUT", "0"),
        ("MESH_NETWORK_MODE", "wireguard"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_its_name(tmp_path: Path, name: str, value: str):
    with pytest.raises(ConfigError) as caught:
        load({name: value}, tmp_path)
    assert caught.value.variable == name
