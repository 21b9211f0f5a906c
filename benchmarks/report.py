"""The report: `RESULTS.md` for people, `results.json` for programs, and what is missed, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.measure import Figure, Target


class Report(Struct, kw_only=True):
    """All that one run found.

    Attributes:
        began: when, in UTC.
        size: `full` or `short`.
        machine: what it ran on.
        others: what kept the machine busy beside it.
        versions: of programs and libraries.
        rows: the figures by the names of the benchmarks.
        broken: what went wrong, by the names of those that could not be measured.
    """

    began: str
    size: str
    machine: str
    others: str = ""
    versions: Mapping[str, str]
    rows: dict[str, list[Figure]]
    broken: dict[str, str]
    took_s: float = 0.0


def write(report: Report, folder: Path, titles: Mapping[str, str], curves: Sequence[Path]) -> None:
    """Writes both files; `curves` are pictures beside them."""
    (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    (folder / "RESULTS.md").write_text("\n".join(_page(report, titles, curves)) + "\n")


def merged(folder: Path, later: Report) -> Report:
    """Returns the report that a folder holds, with the rows of a later one in the place of its own."""
    report = msgspec.json.decode((folder / "results.json").read_bytes(), type=Report)
    report.rows = {name: later.rows.get(name, figures) for name, figures in report.rows.items()}
    report.broken = {
        name: why for name, why in report.broken.items() if name not in later.rows
    } | later.broken
    again = f"{', '.join(later.rows)} measured again at {later.began}, {later.others}"
    report.others = f"{report.others}; {again}"
    return report


def missed(report: Report) -> list[str]:
    """Returns a line for each target that is not met, and for each that could not be measured."""
    lines = []
    for name, figures in report.rows.items():
        for one in figures:
            if one.missed and one.target is not None:
                lines.append(
                    f"missed: {name}: {one.what}: {shown(one)}, target {_target(one.target, one.unit)}"
                )
            elif one.target is not None and one.value is None:
                lines.append(f"not measured: {name}: {one.what}: {one.note}")
    lines += [f"broken: {name}: {why}" for name, why in report.broken.items()]
    return lines


def shown(one: Figure) -> str:
    """Returns the value of a figure, with its unit."""
    return "not measured" if one.value is None else _number(one.value, one.unit)


def _page(report: Report, titles: Mapping[str, str], curves: Sequence[Path]) -> Iterator[str]:
    yield "# What pmoves-mesh reaches, beside what one would pick instead"
    yield ""
    yield (
        f"Written by `make bench` ({report.size} size, {report.took_s / 60:.0f} minutes). Each value is the "
        "median of its rounds; what stands in one row was measured in turn, round by round; a ratio is the "
        "median of the rounds' ratios. What limits each: [docs/performance.md](../docs/performance.md)."
    )
    yield ""
    yield f"- Begun: {report.began}"
    yield f"- Machine: {report.machine}"
    yield f"- Load: {report.others}"
    yield f"- Versions: {', '.join(f'{name} {version}' for name, version in report.versions.items())}"
    yield "- One row alone: `python -m benchmarks NAME`, with the name that stands after its title"
    for name, figures in report.rows.items():
        yield ""
        yield f"## {titles[name][0].upper()}{titles[name][1:]} (`{name}`)"
        yield ""
        yield from _table(figures)
    yield ""
    yield "## What is missed"
    yield ""
    yield from ([f"- {line}" for line in missed(report)] or ["Nothing."])
    if curves:
        yield ""
        yield "## Curves"
        yield ""
        yield from (f"![{path.stem.replace('-', ' ')}]({path.name})" for path in curves)


def _table(figures: Sequence[Figure]) -> Iterator[str]:
    peers = list(dict.fromkeys(name for one in figures for name in one.beside))
    yield _line("what", "here", *peers, "rounds", "target", "met", "")
    yield _line(*["---"] * (6 + len(peers)))
    for one in figures:
        beside = (
            value if isinstance(value, str) else _number(value, one.unit)
            for value in (one.beside.get(name, "") for name in peers)
        )
        target = "" if one.target is None else _target(one.target, one.unit)
        yield _line(one.what, shown(one), *beside, _rounds(one), target, _met(one), one.note)


def _met(one: Figure) -> str:
    if one.target is None:
        return ""
    if one.value is None:
        return "not measured"
    return "**no**" if one.missed else "yes"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rounds(one: Figure) -> str:
    if len(one.rounds) < 2:
        return ""
    low, high = min(one.rounds), max(one.rounds)
    return f"{_plain(low)} to {_plain(high)}, of {len(one.rounds)}"


def _target(target: Target, unit: str) -> str:
    bounds = []
    if target.at_least is not None:
        bounds.append(f"at least {_number(target.at_least, unit)}")
    if target.at_most is not None:
        bounds.append(f"at most {_number(target.at_most, unit)}")
    return ", ".join(bounds)


def _number(value: float, unit: str) -> str:
    separator = "" if unit == "/s" else " "
    return f"{_plain(value)}{separator}{unit}"


def _plain(value: float) -> str:
    """Returns a number with three digits that count, or all of them before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
