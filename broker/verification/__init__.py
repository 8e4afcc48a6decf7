"""Whether a partition belongs to a producer's transaction, asked of the transaction's coordinator (KIP-890)."""

from __future__ import annotations

from broker.verification.produce import ProduceTransaction
from broker.verification.verification import Transaction, Verdicts, Verification

__all__ = ["ProduceTransaction", "Transaction", "Verdicts", "Verification"]
