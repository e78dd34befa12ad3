"""An event loop whose time passes as soon as nothing is left to do at the present one: no test waits."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _PatientSelector(selectors.SelectSelector):
    """Instead of waiting, moves the time on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "Nothing will ever happen again: the test waits for what nobody does."
            self.now += max(0.0, timeout)
        return found


def run_in_virtual_time(main: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine to its end; `loop.time()` begins at 0 and is exact."""
    selector = _PatientSelector()

    def make() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(selector)
        loop.time = lambda: selector.now  # type: ignore[method-assign]
        return loop

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main)
