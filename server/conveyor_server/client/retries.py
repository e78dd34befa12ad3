"""When a refused call is made again. Knows no clock, no transport and no request.

Predictions can be asked twice, so UNAVAILABLE, the code for "not here, not now", is asked again; nothing else is.
Source: gRPC's proposal A6, client retries, whose backoff, budget and push-back these are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import random


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How patient a client is, always within a call's `timeout`.

    Raises:
        ValueError: a number that makes no sense.
    """

    max_attempts: int = 8
    """In all, the first included. With the other defaults, seven retries take 1.1 s on average and 2.3 s at most."""
    initial_backoff: float = 0.02
    """Seconds: the most that the first retry waits. Each wait is random between nothing and its most."""
    multiplier: float = 2.0
    """What the most grows by from one retry to the next."""
    max_backoff: float = 1.0
    """Seconds that the most does not exceed."""
    budget: float = 1000.0
    """Tokens that a client has. A refusal costs one; while half of them are gone, nothing is asked again."""
    token_ratio: float = 0.5
    """What an answer gives back: with 0.5, retries go on for as long as two thirds of all attempts are answered."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}.")
        if not 0 < self.initial_backoff <= self.max_backoff:
            raise ValueError(
                f"Expected 0 < initial_backoff <= max_backoff, got {self.initial_backoff} and {self.max_backoff}."
            )
        if self.multiplier < 1 or self.budget <= 0 or self.token_ratio <= 0:
            raise ValueError(
                "Expected multiplier >= 1, budget > 0 and token_ratio > 0, got "
                f"{self.multiplier}, {self.budget} and {self.token_ratio}."
            )


class Retries:
    """The budget of one client, shared by its calls. A lost update between threads does no harm.

    Args:
        policy: None never asks again.
        draw: a random number in [0, 1).
    """

    def __init__(self, policy: RetryPolicy | None, draw: Callable[[], float] = random) -> None:
        self._policy = policy or RetryPolicy(max_attempts=1)
        self._draw = draw
        self.tokens = self._policy.budget

    def answered(self) -> None:
        """An attempt was answered."""
        if self.tokens < self._policy.budget:
            self.tokens = min(self.tokens + self._policy.token_ratio, self._policy.budget)

    def refused(self, attempts: int, backoffs: int, pushback: float | None) -> float | None:
        """An attempt was refused.

        Args:
            attempts: how many there have been for this call.
            backoffs: how many of the waits in a row the policy decides, with the next one.
            pushback: what the server wants the next one to wait, in seconds; None if it did not say.

        Returns:
            Seconds until the next attempt; None for no more.
        """
        policy = self._policy
        self.tokens = max(self.tokens - 1, 0.0)
        if attempts >= policy.max_attempts or self.tokens <= policy.budget / 2:
            return None
        if pushback is not None:
            return pushback
        # An exponent beyond this is beyond any max_backoff; a float overflows further on.
        most = policy.initial_backoff * policy.multiplier ** min(backoffs - 1, 60)
        return self._draw() * min(most, policy.max_backoff)
