"""What a mutation is, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.cluster_sim.world import NO_FOCUS, Focus, Script, World

Change = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Mutation:
    """`what` is broken by putting something else in the places of `changes`. `script` is the history that shows it."""

    what: str
    changes: Callable[[], list[Change]]
    focus: Focus
    script: Script

    def applied(self) -> AbstractContextManager[None]:
        return _applied(self.changes())


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
