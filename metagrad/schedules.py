"""Quantities that change as training goes on."""

from __future__ import annotations

from dataclasses import dataclass

from metagrad.checks import Checked, NonNegative, Positive


@dataclass(frozen=True)
class Linear(Checked):
    """A quantity that goes in a straight line from one value to another, and stays there.

    Parameters
    ----------
    start, end : float
        Values at the beginning and at the end.
    over : float
        When the end is reached, in the unit of whoever asks: iterations for exploration, episodes for the entropy
        bonus.
    """

    start: NonNegative
    end: NonNegative
    over: Positive

    def __call__(self, done: float) -> float:
        """The value after so much has been done."""
        return self.end + (self.start - self.end) * max(0.0, 1 - done / self.over)


Schedule = float | Linear


def value_at(schedule: Schedule, done: float) -> float:
    """Value of a schedule, or of a constant, after so much has been done."""
    return schedule(done) if isinstance(schedule, Linear) else schedule
