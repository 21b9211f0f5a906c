"""`make bench`: measures what discovery exists for, beside what one would pick instead, and reports it.

`python -m benchmarks NAME...` measures some rows of the table alone and writes nothing, or with `--again`
puts them into the report, as where something else disturbed them. `--short` takes seconds instead of
minutes, for figures that mean nothing, and `--into FOLDER` writes the report elsewhere.
What else is measured has a name too: `checks`, what it costs an agent to look after a thousand services;
`choosing`, what it costs to know of hosts and to choose among many; `history`, how soon any moment of a
million events is told; `liveness`, how soon a lost node is known to be lost; `reliability`, what faults of
servers, network and agents cost; `scale`, what a mesh costs per node, service and change; `sdk`, what the
whole mesh costs a program.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Never

from benchmarks import curves, machine, report
from benchmarks.filled import Stand
from benchmarks.measure import Figure
from benchmarks.processes import end_descendants
from benchmarks.report import Report
from benchmarks.size import FULL, SHORT, Size

ROWS = (
    "lookup",
    "discover",
    "resolve",
    "dns",
    "register",
    "registrations",
    "fold",
    "boot",
    "memory",
    "idle",
    "watch",
    "start",
    "growth",
    "mesh_size",
)
SHARING = ("lookup", "discover", "growth", "memory", "boot")
"""Those that ask meshes which are full already; they come first, and in this order."""
OTHERS = ("checks", "choosing", "history", "liveness", "reliability", "scale", "sdk")


def main() -> int:
    """Runs what is named, or all rows; returns 1 if one of them could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join((*ROWS, *OTHERS))}")
    parser.add_argument("--short", action="store_true", help="see that each runs, in seconds")
    parser.add_argument("--again", action="store_true", help="put these into the report that is there")
    parser.add_argument("--into", type=Path, help="where the report is written")
    chosen = parser.parse_args()
    # A benchmark that is stopped ends what it started, as one that is interrupted does.
    signal.signal(signal.SIGTERM, _stopped)
    # A thousand watchers are a thousand open files.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # What is installed has its modules compiled, and so has what is measured.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if chosen.names and chosen.names[0] in OTHERS:
        for line in import_module(f"benchmarks.{chosen.names[0]}").run(*map(float, chosen.names[1:])):
            print(line, flush=True)
        return 0
    if unknown := set(chosen.names) - set(ROWS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    found = _measure(tuple(chosen.names) or ROWS, SHORT if chosen.short else FULL)
    partly = (chosen.names and not chosen.again) or chosen.short
    into = chosen.into or (None if partly else Path(__file__).parent)
    if into is not None:
        found = report.merged(into, found) if chosen.again else found
        _write(found, into)
    print()
    print("\n".join(report.missed(found)) or "no target is missed", flush=True)
    return 1 if found.broken else 0


def _measure(names: tuple[str, ...], size: Size) -> Report:
    began, others = time.monotonic(), machine.Others()
    found = Report(
        began=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        size=size.name,
        machine=machine.machine(),
        versions=machine.versions(),
        rows={},
        broken={},
    )
    with ExitStack() as stack:
        stack.callback(end_descendants)
        stand = stack.enter_context(Stand(size))
        for name in sorted(names, key=lambda name: SHARING.index(name) if name in SHARING else len(SHARING)):
            if name not in SHARING:
                stand.clear()
            _measure_row(name, stand, found)
    found.rows = {name: found.rows[name] for name in ROWS if name in found.rows}
    found.took_s, found.others = time.monotonic() - began, others.told()
    return found


def _measure_row(name: str, stand: Stand, found: Report) -> None:
    row = import_module(f"benchmarks.{name}")
    print(f"\n{row.TITLE} ({name})", flush=True)
    began, figures = time.monotonic(), found.rows.setdefault(name, [])
    try:
        for one in row.run(stand):
            figures.append(one)
            print(f"  {one.what:<64} {report.shown(one):>16}  {_beside(one)}", flush=True)
    except Exception as error:  # noqa: BLE001 - the others are measured all the same, and it is told at the end
        found.broken[name] = _in_words(error)
        print(f"  {found.broken[name]}", flush=True)
    print(f"  {time.monotonic() - began:.0f} s", flush=True)


def _in_words(error: BaseException) -> str:
    """Returns what went wrong first; several may have waited together for the same thing."""
    if isinstance(error, BaseExceptionGroup):
        return _in_words(error.exceptions[0])
    return f"{type(error).__name__}: {error}"


def _beside(one: Figure) -> str:
    return "; ".join(
        [
            *(
                f"{name}: {value if isinstance(value, str) else f'{value:,.3g}'}"
                for name, value in one.beside.items()
            ),
            *(["MISSED"] if one.missed else []),
            *([one.note] if one.note else []),
        ]
    )


def _write(found: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = curves.draw([one for figures in found.rows.values() for one in figures], folder)
    titles = {name: import_module(f"benchmarks.{name}").TITLE for name in found.rows}
    report.write(found, folder, titles, drawn)
    print(f"\nwritten: {folder / 'RESULTS.md'}")


def _stopped(number: int, _: object) -> Never:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
