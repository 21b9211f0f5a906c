"""How Tailscale gets onto this host, as commands to be shown before they are run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

SITE: Final = "https://pkgs.tailscale.com/stable"
SCRIPT: Final = "https://tailscale.com/install.sh"
_DISTRIBUTIONS: Final = ("debian", "ubuntu", "raspbian")
_KEYRING: Final = "/usr/share/keyrings/tailscale-archive-keyring.gpg"
_SOURCE_LIST: Final = "/etc/apt/sources.list.d/tailscale.list"


class Step(NamedTuple):
    """A command: what it does, its words, and whether it needs the rights of root."""

    what: str
    words: tuple[str, ...]
    root: bool = True

    def command(self, rights: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the words to run, where `rights` gives a command the rights of root."""
        return (*rights, *self.words) if self.root else self.words

    def line(self, rights: tuple[str, ...]) -> str:
        """Returns it as one would type it."""
        return shlex.join(self.command(rights))


class System(NamedTuple):
    """What has to be known of a host.

    Attributes:
        kernel: as `uname -s` says, such as `Linux` or `Darwin`.
        release: the fields of /etc/os-release.
        has: whether a program is on PATH.
    """

    kernel: str
    release: Mapping[str, str]
    has: Callable[[str], bool]


def install_steps(system: System, script: str) -> tuple[Step, ...]:
    """Returns how to install it: the vendor's packages, Homebrew, or else the vendor's script.

    Args:
        system: the host.
        script: where a downloaded script may lie.

    Source: pkgs.tailscale.com/stable (packages), tailscale.com/kb/1347 (the script).
    """
    distribution, code_name = system.release.get("ID", ""), system.release.get("VERSION_CODENAME", "")
    if system.kernel == "Darwin" and system.has("brew"):
        return (Step("install Tailscale from Homebrew", ("brew", "install", "tailscale"), root=False),)
    if distribution in _DISTRIBUTIONS and code_name and system.has("apt-get") and system.has("curl"):
        base = f"{SITE}/{distribution}/{code_name}"
        return (
            Step("fetch the key of Tailscale's packages", _fetch(f"{base}.noarmor.gpg", _KEYRING)),
            Step("add Tailscale's package source", _fetch(f"{base}.tailscale-keyring.list", _SOURCE_LIST)),
            Step("read the lists of packages", ("apt-get", "update", "--quiet=2")),
            Step("install Tailscale", ("apt-get", "install", "--quiet=2", "--yes", "tailscale")),
        )
    return (
        Step("fetch Tailscale's installer", _fetch(SCRIPT, script), root=False),
        Step("install Tailscale", ("sh", script)),
    )


def start_steps(system: System) -> tuple[Step, ...]:
    """Returns how to start it, now and whenever the host starts; nothing where that is not known."""
    if system.kernel == "Darwin" and system.has("brew"):
        return (Step("start Tailscale", ("brew", "services", "start", "tailscale")),)
    if system.has("systemctl"):
        return (Step("start Tailscale", ("systemctl", "enable", "--now", "tailscaled")),)
    if system.has("rc-service"):
        return (
            Step("start Tailscale with the host", ("rc-update", "add", "tailscale")),
            Step("start Tailscale", ("rc-service", "tailscale", "start")),
        )
    return ()


def _fetch(url: str, path: str) -> tuple[str, ...]:
    return ("curl", "--fail", "--silent", "--show-error", "--location", "--output", path, url)
