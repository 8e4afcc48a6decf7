"""Faults as data: each call may be late, fail before it did anything, or succeed and lose its answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Faults:
    """Probabilities for one target; `down` fails everything. `calls` counts them by method."""

    rng: random.Random
    error: type[Exception]
    delay_max: float = 0.0
    fail_before: float = 0.0
    fail_after: float = 0.0
    down: bool = False

    async def around(self, name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.delay_max:
            await asyncio.sleep(self.rng.uniform(0, self.delay_max))
        if self.down or self.rng.random() < self.fail_before:
            raise self.error(f"injected: {name} did not happen")
        result = await call(*args, **kwargs)
        if self.delay_max:
            await asyncio.sleep(self.rng.uniform(0, self.delay_max))
        if self.rng.random() < self.fail_after:
            raise self.error(f"injected: the answer of {name} is lost")
        return result


class Faulty:
    """Wraps a store or a catalog: its coroutine methods go through `faults`, everything else straight on."""

    def __init__(self, target: Any, faults: Faults) -> None:
        self.target = target
        self.faults = faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.target, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def faulty(*args: Any, **kwargs: Any) -> Any:
            return await self.faults.around(name, found, args, kwargs)

        return faulty
