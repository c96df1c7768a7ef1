"""How many problems of one sort were tried, and how many of the answers were false."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tally"]


@dataclass(frozen=True)
class Tally:
    """Counts of one sort of problem; they add up.

    Attributes:
        sort: what the problems have in common.
        problems: that were tried.
        false: answers that break a promise although their status is OK or says that the promise holds.
        refused: answers whose status says that they are not to be used.
        worst: largest violation, relative to the size of the problem.
        example: how to make one false answer again.
    """

    sort: str
    problems: int
    false: int
    refused: int = 0
    worst: float = 0.0
    example: str = ""

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.sort,
            self.problems + other.problems,
            self.false + other.false,
            self.refused + other.refused,
            max(self.worst, other.worst),
            self.example or other.example,
        )
