"""Requests from this broker to brokers, itself included, over the Kafka protocol."""

from __future__ import annotations

from broker.peers.errors import PeerUnavailable
from broker.peers.peers import Peers

__all__ = ["PeerUnavailable", "Peers"]
