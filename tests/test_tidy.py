"""The style of the tree, as tests: sizes, names, and what must not stay in it."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from pmoves_mesh.config import Config, load
from pmoves_mesh.settings import SETTINGS
from pmoves_mesh.values import Secret

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pmoves_mesh"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LAYOUT = {"agent", "cli", "core", "log", "pki", "sdk", "server", "store", "tailscale", "views"}
VIEWS = {"dns", "http"}

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
PARAMETERS_MAX = 6
SLEEP_S_MAX = 0.1
WORDS_MIN = 3

# Spelled in parts, so that this file does not find itself.
LEFT_FOR_LATER = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]))
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:" + "|".join(["ho" + "me", "wor" + "k", "Use" + "rs"]) + r")/\w")
SECRET_NAME = re.compile(r"PASSW|PASSPHRASE|SECRET|TOKEN|AUTH_?KEY|API_?KEY")
PRIVATE_KEY = re.compile(b"-----BEGIN [A-Z ]*PRIVATE" + b" KEY-----\n[A-Za-z0-9+/=]{16}")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions_of(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, Function))


@cache
def tracked_files() -> tuple[Path, ...]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("this is not a git checkout")
    return tuple(
        path for name in listing.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()
    )


def test_every_module_is_at_most_400_lines_long():
    long = {name_of(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_every_function_is_at_most_60_lines_long():
    sizes = {
        f"{name_of(path)}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in MODULES
        for function in functions_of(path)
    }
    assert not {name: lines for name, lines in sizes.items() if lines > FUNCTION_LINES_MAX}


def test_every_function_outside_the_command_line_takes_at_most_six_parameters():
    counts = {
        f"{name_of(path)}:{function.name}": count_parameters(function)
        for path in MODULES
        if PACKAGE / "cli" not in path.parents
        for function in functions_of(path)
    }
    assert not {name: count for name, count in counts.items() if count > PARAMETERS_MAX}


def count_parameters(function: Function) -> int:
    parameters = chain(function.args.posonlyargs, function.args.args, function.args.kwonlyargs)
    return sum(parameter.arg not in {"self", "cls"} for parameter in parameters)


def test_no_module_has_a_name_that_says_nothing():
    empty_words = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}
    named = {name_of(path) for path in MODULES if empty_words & set(path.stem.split("_"))}
    assert not named


def test_every_module_begins_with_a_docstring():
    assert not [name_of(path) for path in MODULES if not ast.get_docstring(parsed(path))]


def test_every_package_has_its_place_in_the_layout():
    assert {path.name for path in PACKAGE.iterdir() if is_package(path)} <= LAYOUT
    assert {path.name for path in (PACKAGE / "views").glob("*") if is_package(path)} <= VIEWS


def is_package(path: Path) -> bool:
    return path.is_dir() and any(path.rglob("*.py"))


def test_nothing_in_the_tree_is_left_for_later():
    assert not places_of(LEFT_FOR_LATER)


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    assert not places_of(MACHINE_PATHS)


def places_of(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in tracked_files()
        if path.name != "LICENSE" and (text := text_of(path)) is not None
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def test_no_private_key_is_tracked_by_git():
    assert not [name_of(path) for path in tracked_files() if path.suffix in {".key", ".pem", ".creds", ".nk"}]
    assert not [name_of(path) for path in tracked_files() if PRIVATE_KEY.search(path.read_bytes())]


def test_no_test_waits_for_a_fixed_time():
    calls = ((path, node) for path in TESTS for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))
    assert not [f"{name_of(path)}:{call.lineno}" for path, call in calls if is_long_sleep(call)]


def is_long_sleep(call: ast.Call) -> bool:
    """Whether a call sleeps for longer than a poll may: of `time` at all, or of `asyncio` for 0.1 s."""
    if ast.unparse(call.func) not in {"time.sleep", "asyncio.sleep"} or len(call.args) != 1:
        return False
    duration = call.args[0]
    return isinstance(duration, ast.Constant) and float(str(duration.value)) >= SLEEP_S_MAX


def test_the_name_of_every_test_is_a_sentence():
    tests = [
        f"{name_of(path)}:{function.name}"
        for path in TESTS
        for function in functions_of(path)
        if function.name.startswith("test_") and len(function.name.split("_")) - 1 < WORDS_MIN
    ]
    assert not tests


@pytest.mark.parametrize("lock", ["runtime", "dev"])
def test_every_pinned_dependency_has_a_hash_and_names_no_index(lock: str):
    text = (ROOT / "deploy" / "locks" / f"{lock}.txt").read_text()
    requirements = re.findall(r"^[a-z0-9][^ ]*==[^\n]*(?:\n    [^\n]*)*", text, re.MULTILINE)
    assert len(requirements) > 20
    assert all("--hash=sha256:" in requirement for requirement in requirements)
    assert "://" not in text
    assert not re.search(r"^ *(-i|--index-url|--extra-index-url|--find-links|-f) ", text, re.MULTILINE)


def test_no_setting_that_is_a_secret_has_a_default():
    secret = {setting.name: setting.default for setting in SETTINGS if SECRET_NAME.search(setting.name)}
    assert {"SERVICE_REGISTRY_TOKEN", "NATS_PASSWORD", "MESH_PASSPHRASE"} <= secret.keys()
    assert not {name: default for name, default in secret.items() if default}
    assert not [setting.name for setting in SETTINGS if "@" in setting.default]


def test_every_secret_of_the_configuration_is_none_until_it_is_set(tmp_path: Path):
    names = [name for name, kind in get_type_hints(Config).items() if Secret in get_args(kind)]
    config = load({}, tmp_path)
    assert len(names) > 3
    assert not [name for name in names if getattr(config, name) is not None]


def test_no_literal_in_the_package_is_a_password_or_a_token():
    assert not [
        f"{name_of(path)}:{value.lineno}: {name}"
        for path in MODULES
        for node in ast.walk(parsed(path))
        for name, value in named_values(node)
        if SECRET_NAME.search(name.upper()) and is_text(value)
    ]


def named_values(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yields the names that a piece of code gives values to: variables, defaults, arguments, keys."""
    match node:
        case ast.Assign(targets=targets, value=value):
            yield from ((ast.unparse(target), value) for target in targets)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield ast.unparse(target), value
        case ast.keyword(arg=str(name), value=value):
            yield name, value
        case ast.Dict(keys=keys, values=values):
            yield from (
                (str(key.value), value)
                for key, value in zip(keys, values, strict=True)
                if isinstance(key, ast.Constant)
            )
        case ast.arguments(args=named, defaults=defaults, kwonlyargs=only, kw_defaults=only_defaults):
            late = [*node.posonlyargs, *named][len(node.posonlyargs) + len(named) - len(defaults) :]
            yield from ((one.arg, default) for one, default in zip(late, defaults, strict=True))
            yield from ((one.arg, value) for one, value in zip(only, only_defaults, strict=True) if value)


def is_text(value: ast.expr) -> bool:
    """Whether an expression is a literal text that is not empty, or wraps one in `Secret`."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Secret":
        return any(map(is_text, value.args))
    return isinstance(value, ast.Constant) and isinstance(value.value, str | bytes) and bool(value.value)


@pytest.mark.parametrize(
    "code",
    [
        "password = 'x'",
        "token: str = 'x'",
        "def f(a, token='x'): ...",
        "def f(*, api_secret=b'x'): ...",
        "connect(password='x')",
        "{'nats_token': 'x'}",
        "token = Secret('x')",
        "self.passphrase = 'x'",
    ],
)
def test_a_literal_secret_would_be_found_wherever_it_stands(code: str):
    found = [pair for node in ast.walk(ast.parse(code)) for pair in named_values(node)]
    assert [name for name, value in found if SECRET_NAME.search(name.upper()) and is_text(value)]
