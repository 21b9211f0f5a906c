"""Whole meshes in virtual time, each from a seed: what the agents promise holds whatever goes wrong.

A seed that fails is played again, with everything that happened, by

    SIM_SEED=1234 .venv/bin/python -m pytest tests/simulation -k one_seed
"""

from __future__ import annotations

import os

import pytest
from scenario import Scenario

SEEDS = int(os.environ.get("SIM_SEEDS", "150"))
SEED = os.environ.get("SIM_SEED")


def verdict(seed: int) -> str:
    """Returns what went wrong, and how to see it again; empty if nothing did."""
    violations = Scenario(seed).play().violations
    if not violations:
        return ""
    again = f"SIM_SEED={seed} .venv/bin/python -m pytest tests/simulation -k one_seed"
    return "\n".join([f"seed {seed}; to play it again: {again}", *violations[:5]])


def test_every_mesh_agrees_with_its_owners_once_all_is_mended():
    failures = [text for seed in range(SEEDS) if (text := verdict(seed))]
    assert not failures, "\n\n".join(failures[:5])
