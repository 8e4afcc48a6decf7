"""What a mutation is, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from tests.cluster_sim.world import NO_FOCUS, Focus, Result, Script, World, run_history

Change = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Mutation:
    """`what` is broken by putting something else in the places of `changes`. `script` is the history that shows it."""

    what: str
    changes: Callable[[], list[Change]]
    focus: Focus
    script: Script

    @property
    def has_schedule(self) -> bool:
        return self.script is not World.main

    def run(self, seed: int, *, prints: bool = False, is_brief: bool = False) -> Result:
        """A history of the broken product. Schedules are for three brokers."""
        return self._run(seed, _applied(self.changes()), prints, is_brief)

    def run_whole(self, seed: int, *, is_brief: bool = False) -> Result:
        """The same one of the product as it is, which has as little time to get on again."""
        return self._run(seed, nullcontext(), False, is_brief)

    def _run(self, seed: int, broken: AbstractContextManager[None], prints: bool, is_brief: bool) -> Result:
        is_brief = is_brief or self.has_schedule
        return run_history(seed, broken, prints=prints, is_brief=is_brief, focus=self.focus, script=self.script)


@contextmanager
def _applied(changes: list[Change]) -> Iterator[None]:
    saved = [(owner, name, vars(owner)[name]) for owner, name, _ in changes]
    for owner, name, new in changes:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for owner, name, old in reversed(saved):
            setattr(owner, name, old)


MUTATIONS: dict[str, Mutation] = {}

ZOMBIES = Focus(("pause", "isolate", "partition", "kill"))
CUT_OFF = Focus(("isolate", "partition", "catalog_outage"))
SHARED = Focus(wal_kinds=("shared",))


def mutation(
    name: str, what: str, focus: Focus = NO_FOCUS, script: Script = World.main
) -> Callable[[Callable[[], list[Change]]], Callable[[], list[Change]]]:
    def add(changes: Callable[[], list[Change]]) -> Callable[[], list[Change]]:
        MUTATIONS[name] = Mutation(what, changes, focus, script)
        return changes

    return add


async def nothing_async(*args: Any, **kwargs: Any) -> None:
    return None


def nothing(*args: Any, **kwargs: Any) -> None:
    return None
