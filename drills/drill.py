"""What a drill is, and how it is to be run: plain data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drills.client.view import Address
from drills.cluster import Setup

if TYPE_CHECKING:
    from drills.run import Run

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """Of the command line. `bootstrap`: somebody else's cluster instead of an own one."""

    setup: Setup = field(default_factory=Setup)
    bootstrap: Sequence[Address] | None = None
    seed: int = 0
    held: int = 256 * MB
    """Bytes of old data where a drill needs some."""
    keep: bool = False
    pace: float = 1.0
    """Factor of all waiting times, for a short form."""
    times: int = 1
    """How often it is done to the same cluster."""


@dataclass(frozen=True, slots=True)
class Drill:
    """`needs_processes`: it starts, stops or hurts brokers, store or database, so it needs a cluster of its own."""

    name: str
    summary: str
    promises: str
    scenario: Callable[[Run], Awaitable[None]]
    brokers: int = 3
    needs_processes: bool = True
    repeatable: bool = False
    """It leaves the cluster as it found it, so that it can be done to it again."""
    throttled: bool = False
    """The store is behind a proxy."""
    objects: str | None = None
    """The only kind of store that it can run with."""
    env: Mapping[str, str] = field(default_factory=dict)
    topic: Mapping[str, str] = field(default_factory=dict)
    """Configs of the topic."""
