"""How long to wait before a process is started again. Numbers only; knows no clock."""

from dataclasses import dataclass

FIRST_SECONDS = 1.0
MOST_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""Who has lived so long did not fail for what made it fail before."""


@dataclass
class Backoff:
    """The pauses of one place that must be filled: none after the first end, then longer ones."""

    failures: int = 0
    """Ends in a row, none of them after a long life."""

    def next_pause(self, lifetime: float) -> float:
        """Seconds to wait, after a process ended that had lived so many."""
        self.failures = 1 if lifetime >= STABLE_SECONDS else self.failures + 1
        if self.failures == 1:
            return 0.0
        return float(min(FIRST_SECONDS * 2.0 ** (min(self.failures, 64) - 2), MOST_SECONDS))
