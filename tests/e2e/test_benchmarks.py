"""Each benchmark still runs, and nothing has become many times slower than what was measured beside it.

All of it is so small that its figures mean nothing, but for ratios that were taken in the same seconds:
those have to be worse than they ever were by some times before a test fails.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

import msgspec
import pytest

from benchmarks.__main__ import OTHERS, ROWS
from benchmarks.report import Report

ROOT: Final = Path(__file__).resolve().parents[2]
CURVE: Final = re.compile(r"\((\S+\.png)\)")
ABSENT: Final = ("is not on PATH",)
LEAST: Final = {
    # By the row, what is compared, and the least part of its usual ratio that may remain.
    ("lookup", "as many as bare asyncio handler"): 0.15,  # usually 0.8
    ("discover", "as many as bare asyncio handler"): 0.15,  # usually 0.8
    ("fold", "as many as one P-256 verification"): 0.2,  # usually 0.7
}


def bench(*arguments: str | Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "benchmarks", *map(str, arguments))


def measured(name: str, into: Path) -> Report:
    """Runs one row of the table in its short form, as a person would, and returns what it reports."""
    command = bench(name, "--short", "--into", into)
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return msgspec.json.decode((into / "results.json").read_bytes(), type=Report)


@pytest.mark.parametrize("name", ROWS)
def test_each_row_of_the_table_is_measured_and_reported(name: str, tmp_path: Path):
    if name in {"lookup", "discover"} and shutil.which("wrk") is None:
        pytest.skip("wrk is not on PATH")
    report = measured(name, tmp_path)
    figures = report.rows[name]
    assert [one.what for one in figures if one.value is None and not one.note.endswith(ABSENT)] == []
    ratios = {(name, one.what): max(one.rounds) for one in figures if (name, one.what) in LEAST}
    assert ratios.keys() == {key for key in LEAST if key[0] == name}
    assert {key: ratio for key, ratio in ratios.items() if ratio < LEAST[key]} == {}
    page = (tmp_path / "RESULTS.md").read_text()
    assert all(one.what in page for one in figures)
    if any(one.sizes for one in figures):
        assert all((tmp_path / name).is_file() for name in CURVE.findall(page))
        assert CURVE.search(page)


def test_a_row_that_is_measured_again_takes_its_place_in_the_report(tmp_path: Path):
    into = ("--short", "--into", tmp_path)
    subprocess.run(bench("resolve", "fold", *into), cwd=ROOT, check=True, capture_output=True)
    first = msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=Report)
    subprocess.run(bench("fold", "--again", *into), cwd=ROOT, check=True, capture_output=True)
    again = msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=Report)
    assert again.rows["resolve"] == first.rows["resolve"]
    assert again.rows["fold"] != first.rows["fold"]
    assert "fold measured again at" in (tmp_path / "RESULTS.md").read_text()


def test_a_benchmark_that_is_stopped_ends_whatever_it_started(tmp_path: Path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        bench("boot", "--short"), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: len(set(using(tmp_path))) > 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    wait_until(lambda: not set(using(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_benchmark_is_refused_by_name():
    ended = subprocess.run(bench("nothing"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "there is no nothing" in ended.stderr


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_benchmark_has_its_ways_in(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert callable(import_module(f"benchmarks.{name}").run)


def using(folder: Path) -> Iterator[int]:
    """Yields the processes that were started with this folder for what is temporary, and have not ended."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                yield int(process.name)
        except OSError:
            continue


def wait_until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.perf_counter() + within_s
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.05)
