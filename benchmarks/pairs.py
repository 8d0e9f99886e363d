"""Ratios of two things measured in turn in one run: absolute numbers swing by a quarter, their ratio hardly does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """One turn: what was measured, and its baseline right beside it, in the same unit."""

    measured: float
    baseline: float

    @property
    def ratio(self) -> float:
        return self.measured / self.baseline


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report. `goal` is a lower bound when `at_least`, else an upper one; `notes` are printed beside
    it and kept in the JSON."""

    name: str
    value: float
    worst: float
    goal: float
    at_least: bool
    unit: str = "×"
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def line(self) -> str:
        sign, verdict = "≥" if self.at_least else "≤", "ok  " if self.reached else "MISS"
        beside = "".join(f"  {key}={value}" for key, value in self.notes.items())
        return (
            f"{verdict} {self.name:44} {self.value:8.3f} {self.unit:3} "
            f"(worst {self.worst:.3f}, goal {sign} {self.goal:g}){beside}"
        )

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "reached": self.reached}


def interleaved(measure: Callable[[], float], baseline: Callable[[], float], pairs: int) -> list[Pair]:
    """Measure and baseline in turn, `pairs` times; the order alternates so that neither always runs second."""
    found = []
    for turn in range(pairs):
        if turn % 2:
            low = baseline()
            found.append(Pair(measure(), low))
        else:
            high = measure()
            found.append(Pair(high, baseline()))
    return found


def figure(name: str, pairs: list[Pair], goal: float, *, at_least: bool, **notes: Any) -> Figure:
    """Median and worst ratio of `pairs` against `goal`."""
    ratios = [pair.ratio for pair in pairs]
    worst = min(ratios) if at_least else max(ratios)
    return Figure(name, median(ratios), worst, goal, at_least, notes=notes)


def percentile(values: list[float], percent: float) -> float:
    """Nearest-rank percentile of a non-empty list."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered)) - 1))]
