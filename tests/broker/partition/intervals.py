"""Snapshots at other intervals than those that the budget gives."""

from __future__ import annotations

import pytest

from broker.partition import replay_budget


def snapshot_every(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Every partition that is opened from now on saves its state after so many bytes, however large its snapshots."""
    monkeypatch.setattr(replay_budget, "REPLAYED_SIZE_MAX", size)
    monkeypatch.setattr(replay_budget, "INTERVAL_MIN", size)
    monkeypatch.setattr(replay_budget, "SNAPSHOT_SHARE", 0)
