"""The secret scan, by what is planted in a git tree. Planted secrets are put together from parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "secret_scan.py"
LETTERS = "QZ7MXA2KPW5RTYV3HNBC6JDELFGSUOI4"
RANDOM = "kT9x" + "Wq2LmZ" + "7vBn4RsY8"
WEB_TOKEN = ".".join(["ey" + "JhbGciOiJFUzI1NiJ9", "ey" + "JzdWIiOiJhbHBoYSJ9", LETTERS.lower()])


class Scan(NamedTuple):
    code: int
    lines: list[str]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


def scan(tree: Path) -> Scan:
    done = subprocess.run(
        [sys.executable, SCRIPT], cwd=tree, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    return Scan(done.returncode, done.stdout.splitlines())


def plant(tree: Path, text: str | bytes, name: str = "notes.md") -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    subprocess.run(["git", "add", "--force", name], cwd=tree, check=True)


def private_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        ("S" + "U" + LETTERS[:28] * 2, "a NATS seed"),
        ("S" + "A" + LETTERS[:28] * 2, "a NATS seed"),
        (WEB_TOKEN, "a JSON web token"),
        ("AK" + "IA" + LETTERS[:16], "an AWS key"),
        ("gh" + "p_" + LETTERS + "abcd", "a GitHub token"),
        ("github" + "_pat_" + LETTERS * 2, "a GitHub token"),
        ("xo" + "xb-1234567890-abcdef", "a Slack token"),
        ("https://hooks.slack" + ".com/services/T000/B000/abcd", "a Slack webhook"),
        ("ts" + "key-auth-kAbCdEf1CNTRL-abcdef", "a Tailscale key"),
        ("pmoves" + "1-" + LETTERS * 2, "a join token"),
        ("nats://someone:" + "hunter2" + "@10.0.0.1:4222", "a password in a URL"),
        ("password: " + RANDOM, "a secret in an assignment"),
        ("export MESH_PASSPHRASE=" + RANDOM, "a secret in an assignment"),
        ('"api_key": "' + RANDOM + '"', "a secret in an assignment"),
    ],
)
def test_each_kind_of_secret_is_found_and_not_shown(tree: Path, planted: str, kind: str):
    plant(tree, f"first line\nand then {planted}\n")
    assert scan(tree) == Scan(1, [f"notes.md:2: {kind}"])


@pytest.mark.parametrize(
    "code",
    [
        f'password = "{RANDOM}"',
        f"settings['http_token'] = '{RANDOM}'",
        f'TOKEN: Final = Secret("{RANDOM}")',
        f'connect(secret=b"{RANDOM}")',
        f'monkeypatch.setenv("NATS_TOKEN", "{RANDOM}")',
    ],
)
def test_a_secret_in_code_is_found_where_it_is_a_literal(tree: Path, code: str):
    plant(tree, f"{code}\n", "module.py")
    assert scan(tree) == Scan(1, ["module.py:1: a secret in an assignment"])


def test_a_private_key_is_found_and_no_marker_excuses_it(tree: Path):
    plant(tree, f"# made-up\n{private_key()}# made-up\n", "deploy/server.txt")
    assert scan(tree) == Scan(1, ["deploy/server.txt:2: a private key"])


def test_every_secret_of_a_tree_is_named(tree: Path):
    plant(tree, f"token={RANDOM}\n\npassword={RANDOM}\n")
    plant(tree, private_key(), "a.pem")
    assert scan(tree).lines == [
        "a.pem:1: a private key",
        "notes.md:1: a secret in an assignment",
        "notes.md:3: a secret in an assignment",
    ]


@pytest.mark.parametrize(
    "line",
    [
        f"password={RANDOM}  # made-up",
        "nats://someone:" + "made-up@10.0.0.1",
        "nats://[user:password@|token@]host[:port]",
        "https://{user}:{password}@host",
        "postgres://$USER:$PASSWORD@host",
        "token = config.http_token.reveal_it_all_now()",
        "secret: the one that was given to this node at its first start",
        "password=aaaaaaaaaaaaaaaaaaaaaa1",
        "the token_bucket_of_this_node: 1234567890123456",
        "-----BEGIN PRIVATE KEY----- and nothing after it",
        "--hash=sha256:" + "0123456789abcdef" * 4,
    ],
)
def test_what_is_no_secret_is_let_through(tree: Path, line: str):
    plant(tree, f"{line}\n")
    assert scan(tree) == Scan(0, [])


def test_files_that_git_does_not_track_and_pictures_are_left_alone(tree: Path):
    (tree / "env.shared").write_text(f"SERVICE_REGISTRY_TOKEN={RANDOM}\n")
    plant(tree, b"\x89PNG\0" + f"token={RANDOM}".encode(), "picture.png")
    assert scan(tree) == Scan(0, [])


def test_outside_a_checkout_the_scan_says_that_it_was_skipped(tmp_path: Path):
    assert scan(tmp_path) == Scan(0, ["secret scan skipped: this is not a git checkout"])


def test_this_tree_holds_no_secret():
    assert scan(ROOT).code == 0
