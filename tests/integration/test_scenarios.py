"""The scenarios of `examples/scenarios`, each by its one command, with all the hosts that it has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from agents import ROOT
from ports import free_port

SCENARIOS = ROOT / "examples" / "scenarios"

pytestmark = pytest.mark.timeout(240)


def played(program: str, tmp_path: Path) -> list[str]:
    """Returns the lines that a scenario prints, which has to end well."""
    done = subprocess.run(
        [sys.executable, SCENARIOS / program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PMOVES_NATS_PORT": str(free_port())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def test_a_question_is_answered_by_whoever_is_there(tmp_path: Path):
    lines = [re.fullmatch(r"(.+): (.+) \((.+)\)", line) for line in played("rag.py", tmp_path)]
    told = [(line[1], line[3]) for line in lines if line]
    assert told == [
        ("all are there", "vector on gpu, graph on vps, full-text on jetson"),
        ("a vector node is dead", "vector on jetson, graph on vps, full-text on jetson"),
        ("a whole host is lost", "vector on jetson, full-text on jetson"),
        ("they are back", "vector on gpu, graph on vps, full-text on jetson"),
    ]
    assert all(line and line[2].split()[0] == "motor" for line in lines)


def test_a_job_goes_to_the_node_that_fits_it_best(tmp_path: Path):
    assert played("gpu.py", tmp_path) == [
        "needs 16 GB: big",
        "the larger node is busy: small",
        "the other is lost: big",
        "needs 48 GB: nobody",
    ]


def test_a_jetson_that_works_alone_survives_losing_the_pc(tmp_path: Path):
    assert played("transcription.py", tmp_path) == [
        "both are there: the PC's recording is transcribed on the jetson",
        "the PC is lost: the jetson finds its transcriber, which takes 2 recordings",
        "the PC is back: it has all 3 transcripts",
    ]
