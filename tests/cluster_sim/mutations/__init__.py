"""Ways to break what keeps brokers from each other's way, one at a time. The simulation has to notice each of them.

Those with a `script` are shown by one history, whose faults come in a chosen order; the others by random ones.

A mutation that no history notices means that a fault never happens, that a check is missing, or that something else
guards the same promise; the last kind is listed in `REDUNDANT`, with what that is.
"""

from __future__ import annotations

from tests.cluster_sim.mutations import catalog, leadership, leases, logs
from tests.cluster_sim.mutations.registry import MUTATIONS, Mutation

REDUNDANT: dict[str, str] = {
    "claim-ignored": "commits continue offsets: of two that recover one log, one gets ahead and the other gives up",
    "stream-epoch-not-checked": "the broker's own epoch, and commits continue offsets",
    "offsets-not-continuous": "the epochs of broker and streams",
}
"""Mutations that need not be noticed -> what else keeps the promise."""

__all__ = ["MUTATIONS", "REDUNDANT", "Mutation", "catalog", "leadership", "leases", "logs"]
