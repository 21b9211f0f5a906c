"""Curves: one small picture for each figure that was taken at several sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.measure import Figure

Points = list[tuple[float, float]]


def draw(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """Draws each curve as a PNG, and returns the files; none where matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - measuring goes without it

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415 - as above
    except ImportError:
        return []
    drawn = []
    for name, unit, points in _curves(figures):
        figure, axes = plt.subplots(figsize=(4.8, 2.7), layout="constrained")
        axes.plot(*zip(*points, strict=True), marker="o", color="#1f6feb")
        axes.set_xscale("log")
        if unit == "MB":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0, top=1.25 * max(value for _, value in points))
        for size, value in points:
            axes.annotate(
                f"{value:,.3g}" if value < 100 else f"{value:,.0f}",
                (size, value),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set_title(name, fontsize=10)
        axes.set_ylabel(unit.replace("/s", "a second"), fontsize=8)
        axes.set_xticks([size for size, _ in points], [f"{size:,.0f}" for size, _ in points])
        axes.tick_params(labelsize=8, which="both")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        path = folder / f"{_file_name(name)}.png"
        figure.savefig(path, dpi=90, metadata={"Software": None})
        plt.close(figure)
        drawn.append(path)
    return drawn


def _curves(figures: Iterable[Figure]) -> Iterator[tuple[str, str, Points]]:
    found: dict[tuple[str, str], Points] = {}
    for one in figures:
        if one.sizes is not None and one.value is not None:
            found.setdefault((one.sizes[0], one.unit), []).append((one.sizes[1], one.value))
    return ((name, unit, points) for (name, unit), points in found.items() if len(points) > 1)


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")
