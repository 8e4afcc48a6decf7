"""An event loop whose clock jumps to the next timer instead of waiting for it: hours pass at once, in one order."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

DAY = 86_400.0


class Deadlock(AssertionError):
    """Nothing is ready and no timer is set, or only periodic work has gone on for too long: everybody waits."""


class _JumpingSelector(selectors.DefaultSelector):
    now = 0.0
    limit = DAY

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or self.now > self.limit:
            waiting = [str(task.get_coro()) for task in asyncio.all_tasks(asyncio.get_running_loop())]
            raise Deadlock("nothing will ever happen again; waiting: " + "; ".join(waiting))
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`limit`: the virtual time at which what is still running is taken for stuck."""

    def __init__(self, limit: float = DAY) -> None:
        self._jumping = _JumpingSelector()
        self._jumping.limit = limit
        super().__init__(self._jumping)
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda loop, context: self.errors.append(context))

    def time(self) -> float:
        return self._jumping.now


def run_virtual(main: Coroutine[Any, Any, T], limit: float = DAY) -> T:
    """Run to the end; whatever a task or callback raised unseen is an error."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(limit)) as runner:
        result = runner.run(main)
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        assert not loop.errors, loop.errors
    return result


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Makes an async test run on a virtual loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run
