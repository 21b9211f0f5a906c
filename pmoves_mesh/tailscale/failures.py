"""What goes wrong with the tailscale program: one kind, one line and one remedy each."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pmoves_mesh.errors import MeshError
from pmoves_mesh.tailscale.state import TailscaleStatus

_SHOWN_LENGTH_MAX: Final = 300
_KEYS: Final = re.compile(r"\b[th]skey-[A-Za-z0-9_-]+")


class TailscaleError(MeshError):
    """Tailscale does not do what was asked.

    Attributes:
        kind: one word for programs, such as `daemon_down`.
        problem: what is wrong.
        remedy: what a person does about it.
    """

    def __init__(self, kind: str, problem: str, remedy: str) -> None:
        self.kind = kind
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}; {remedy}")


class _Failure(NamedTuple):
    """A kind of failure, and what the program writes then, in lower case."""

    kind: str
    pattern: re.Pattern[str]
    problem: str
    remedy: str


_NEW_KEY: Final = (
    "make a key at https://login.tailscale.com/admin/settings/keys "
    "(Headscale: headscale preauthkeys create), then: make mesh-setup AUTHKEY=..."
)

# The first that fits holds: who may not open the daemon's socket is told so, not that it is down.
_FAILURES: Final = (
    _Failure(
        "permission",
        re.compile(r"access denied|permission denied|operation not permitted|must be root|sudo: .*required"),
        "this user may not control Tailscale",
        "run it as root or with sudo, or once: sudo tailscale set --operator=$USER",
    ),
    _Failure(
        "daemon_down",
        re.compile(
            r"failed to connect to local tailscale|tailscaled\.sock|is tailscale running|"
            r"tailscaled\.service not running"
        ),
        "tailscaled is not running",
        "start it: sudo systemctl enable --now tailscaled (macOS: sudo brew services start tailscale)",
    ),
    _Failure(
        "key_used",
        re.compile(r"auth ?key (has )?already (been )?used"),
        "the Tailscale key was used already",
        f"a key for several hosts must be reusable: {_NEW_KEY}",
    ),
    _Failure(
        "key_expired",
        re.compile(r"auth ?key (has |is )?expired|invalid key:.*\bexpired"),
        "the Tailscale key has expired",
        _NEW_KEY,
    ),
    _Failure(
        "key_wrong",
        re.compile(
            r"invalid key|invalid (pre)?-?auth ?key|unable to validate api key|auth ?key not found|"
            r"register request: http 401"  # all that older releases of Headscale say
        ),
        "the Tailscale key is wrong or was revoked",
        _NEW_KEY,
    ),
    _Failure(
        "tags_refused",
        re.compile(r"requested tags .*(invalid|not permitted)"),
        "the tailnet does not let this host have its tags",
        "allow them under tagOwners of the tailnet's policy, or set TAILSCALE_TAGS (none: no tags)",
    ),
    _Failure(
        "settings_differ",
        re.compile(r"requires mentioning all"),
        "this host's Tailscale has settings that setting it up would undo",
        "make them settings of the mesh too (TAILSCALE_...), or drop them: sudo tailscale up --reset",
    ),
    _Failure(
        "approval_needed",
        re.compile(r"approve your machine"),
        "an administrator of the tailnet must approve this host",
        "approve it at https://login.tailscale.com/admin/machines, then run it again",
    ),
    _Failure(
        "not_logged_in",
        re.compile(r"logged out|not logged in|to authenticate, visit"),
        "this host is not logged in to Tailscale",
        _NEW_KEY,
    ),
    _Failure(
        "server_unreachable",
        re.compile(r"no such host|connection refused|network is unreachable|fetch control key|i/o timeout"),
        "the control server of Tailscale cannot be reached",
        "see that this host reaches it, and that TAILSCALE_LOGIN_SERVER is right",
    ),
    _Failure(
        "timeout",
        re.compile(r"timeout waiting for tailscale|deadline exceeded"),
        "Tailscale was not up in time",
        "see what it waits for: tailscale status; or raise TAILSCALE_TIMEOUT",
    ),
)


_STATES: Final = {
    "NeedsMachineAuth": (
        "approval_needed",
        "an administrator of the tailnet must approve this host",
        "approve it at https://login.tailscale.com/admin/machines, then run it again",
    ),
    "Stopped": ("stopped", "Tailscale is down on this host", "start it: make mesh-setup"),
    "InUseOtherUser": (
        "other_user",
        "another user of this host uses Tailscale",
        "log in as that user, or as root",
    ),
}
"""What the states mean in which this host is not part of its tailnet: kind, problem and remedy."""


def failure_of(output: str) -> TailscaleError:
    """Returns what the output of a call that failed means; it never holds a key."""
    spoken = " ".join(_KEYS.sub("***", output).split())
    for failure in _FAILURES:
        if failure.pattern.search(spoken.lower()):
            return TailscaleError(failure.kind, failure.problem, failure.remedy)
    said = f"it says: {spoken[:_SHOWN_LENGTH_MAX]}" if spoken else "it says nothing"
    return TailscaleError("unknown", f"the tailscale program failed; {said}", "see: tailscale status")


def not_installed() -> TailscaleError:
    """Returns what to say where there is no such program."""
    return TailscaleError("not_installed", "Tailscale is not installed", "install it: make mesh-setup")


def timed_out(what: str, seconds: float) -> TailscaleError:
    """Returns what to say when a call of the program did not end in time."""
    return TailscaleError(
        "timeout",
        f"{what} did not end within {seconds:g} s",
        "see whether tailscaled hangs: sudo systemctl restart tailscaled",
    )


def stopped(status: TailscaleStatus, now_ms: int) -> TailscaleError | None:
    """Returns why this machine is not part of the tailnet; None if it is.

    Args:
        status: what Tailscale says.
        now_ms: unix milliseconds.
    """
    if status.running:
        return None
    if status.myself is not None and status.myself.has_expired(now_ms):
        return TailscaleError("node_key_expired", "this host's own key of Tailscale has expired", _NEW_KEY)
    if status.backend_state == "NeedsLogin":
        return failure_of(" ".join(("logged out", *_login_errors(status))))
    failure = _STATES.get(status.backend_state)
    if failure is not None:
        return TailscaleError(*failure)
    state = status.backend_state[:30]
    return TailscaleError("starting", f"Tailscale is not up yet ({state})", "wait, then: make mesh-status")


def _login_errors(status: TailscaleStatus) -> tuple[str, ...]:
    """Returns what Tailscale remembers of the last login that failed."""
    return tuple(line for line in status.health or () if "last login error" in line.lower())
