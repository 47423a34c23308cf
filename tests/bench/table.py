"""Samples, rows, and the table they become."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field


@dataclass
class Sample:
    """One quantity, measured in several rounds. `unit` is written behind the numbers."""

    unit: str = ""
    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Take a round's value."""
        self.values.append(value)

    @property
    def median(self) -> float:
        """Of the rounds; nan if there are none."""
        return statistics.median(self.values) if self.values else float("nan")

    def text(self) -> str:
        """Median and extremes."""
        if not self.values:
            return "-"
        if len(self.values) == 1:
            return f"{number(self.median)}{self.unit}"
        return f"{number(self.median)}{self.unit} ({number(min(self.values))}–{number(max(self.values))})"


def number(value: float) -> str:
    """Three digits, or all of them in front of the point."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ratios(over: Sample, under: Sample) -> Sample:
    """Round by round, so that drift of the machine between rounds cancels."""
    return Sample("", [a / b for a, b in zip(over.values, under.values, strict=False) if b])


@dataclass
class Row:
    """A line of the table.

    Attributes:
        what: is measured.
        reach: the figure the design names, "" if none.
        measured: median and spread.
        beside: the same of other tools, or why it is missing.
        ratio: to what stands beside.
        reached: None where there is nothing to reach, or nothing was measured.
        samples: the raw numbers by name.
    """

    what: str
    reach: str = ""
    measured: str = "-"
    beside: str = "-"
    ratio: str = "-"
    reached: bool | None = None
    samples: dict[str, Sample] = field(default_factory=dict)

    def raw(self) -> dict[str, object]:
        """For --json."""
        return asdict(self)


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = ("what", "reach", "measured: median (min–max)", "beside it", "ratio", "ok?")
    lines = [
        (row.what, row.reach or "-", row.measured, row.beside, row.ratio, {None: "-", True: "yes", False: "**no**"}[row.reached])
        for row in rows
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, tuple("---" for _ in head), *lines))
