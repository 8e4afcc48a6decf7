"""Ways to break what keeps brokers from each other's way, one at a time. The simulation has to notice each of them.

Those with a `script` are shown by one history, whose faults come in a chosen order; the others by random ones.

A mutation that no history notices means that a fault never happens, that a check is missing, or that something else
guards the same promise; the last kind is listed in `REDUNDANT`, with what that is and the mutation without either.
"""

from __future__ import annotations

from tests.cluster_sim.mutations import catalog, leadership, leases, logs
from tests.cluster_sim.mutations.registry import MUTATIONS, Mutation

REDUNDANT: dict[str, tuple[str, str]] = {
    "claim-ignored": (
        "commits are checked: of two that recover one log, one gets ahead and the other gives up",
        "claim-ignored-and-commits-unchecked",
    ),
    "left-open-claimed": ("a stream that is open elsewhere is not opened", "left-open-claimed-and-taken"),
    "stream-epoch-not-checked": ("commits continue offsets", "no-epoch-and-no-continuity"),
    "offsets-not-continuous": ("the epochs of streams", "no-epoch-and-no-continuity"),
}
"""Mutations that need not be noticed -> what else keeps the promise, and the mutation without either."""

__all__ = ["MUTATIONS", "REDUNDANT", "Mutation", "catalog", "leadership", "leases", "logs"]
