"""What an agent does not import: asked of a process of its own, since this one has it all."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from functools import cache

import msgspec
import pytest
from msgspec import Struct

ASKED = """
import os, sys
before = dict(os.environ)
from pmoves_mesh.cli.lean import import_lean
{hindrance}
import_lean(terminal={terminal})
import pmoves_mesh.agent.main
import pmoves_mesh.cli.client
import aiohttp, json, ssl, structlog
from aiohttp import connector
contexts = [connector._SSL_CONTEXT_VERIFIED, connector._SSL_CONTEXT_UNVERIFIED]
modules = sorted(sys.modules)
import rich
print(json.dumps({{
    "modules": modules,
    "default_certificates": [one.cert_store_stats()["x509"] for one in contexts],
    "own_certificates": ssl.create_default_context().cert_store_stats()["x509"],
    "environment_kept": dict(os.environ) == before,
    "rich_tracebacks": structlog.dev.rich is not None,
}}))
"""

# What an agent does without until somebody asks for it, or a setting turns it on.
ON_DEMAND = ("lark", "dns", "pmoves_mesh.views.dns", "zeroconf", "multiprocessing", "pygments", "ctypes")


class Found(Struct):
    """What a process has, once it imported an agent."""

    modules: frozenset[str]
    default_certificates: tuple[int, int]
    own_certificates: int
    environment_kept: bool
    rich_tracebacks: bool


@cache
def imported(*, terminal: bool = False, hindrance: str = "") -> Found:
    program = ASKED.format(terminal=terminal, hindrance=hindrance)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=Found)


@pytest.mark.parametrize("name", ON_DEMAND)
def test_an_agent_does_not_import_what_nobody_has_asked_for(name: str) -> None:
    assert name not in imported().modules


def test_an_agent_whose_log_no_person_reads_does_without_rich() -> None:
    found = imported()  # which imports rich in the end: it is hidden no longer than need be
    assert not found.rich_tracebacks
    assert not {"rich", "greenlet"} & found.modules


def test_an_agent_on_a_terminal_has_tracebacks_by_rich() -> None:
    assert imported(terminal=True).rich_tracebacks


def test_aiohttp_reads_none_of_the_systems_certificates() -> None:
    assert imported().default_certificates == (0, 0)


def test_whoever_makes_a_context_for_https_has_the_systems_certificates() -> None:
    # As the probes of services do. Some systems look certificates up one by one, and count none here.
    assert imported().own_certificates == ssl.create_default_context().cert_store_stats()["x509"]


def test_no_library_of_cpp_is_loaded_for_aiohttps_lists() -> None:
    assert "frozenlist" in imported().modules
    assert "frozenlist._frozenlist" not in imported().modules


def test_the_environment_is_as_it_was_once_all_is_imported() -> None:
    assert imported().environment_kept
    own = "os.environ['SSL_CERT_FILE'] = before['SSL_CERT_FILE'] = '/nowhere'"
    assert imported(hindrance=own).environment_kept


def test_a_library_that_no_longer_does_without_another_is_imported_with_it() -> None:
    needs_rich = """
import importlib.abc
class Needy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "structlog.dev":
            import rich.traceback
sys.meta_path.insert(0, Needy())
"""
    assert "rich" in imported(hindrance=needs_rich).modules
