"""Telling the targets what they are to lead, or lead now. It saves time; whether they hear it does not matter."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import UUID

import structlog

from broker.peers import Peers, PeerUnavailable
from protocol.messages.announce_leadership import AnnouncedTopic, AnnounceLeadershipRequest

log = structlog.get_logger()

ANSWER_MAX_S = 5.0
"""How long a target may take to make ready; it gets the partitions anyway."""
API_VERSION = 0

Key = tuple[UUID, int]
"""Topic id and partition index."""


async def announce(peers: Peers, node_id: int, moves: Mapping[Key, int], *, handed_over: bool) -> None:
    """Return when all targets (the values of `moves`) have answered, or had the time to."""
    topics_of: dict[int, dict[UUID, list[int]]] = {}
    for (topic_id, index), target in moves.items():
        topics_of.setdefault(target, {}).setdefault(topic_id, []).append(index)
    answers = []
    for target, indexes_of in topics_of.items():
        topics = [
            AnnouncedTopic(topic_id=topic_id.bytes, partition_indexes=indexes)
            for topic_id, indexes in indexes_of.items()
        ]
        request = AnnounceLeadershipRequest(node_id=node_id, handed_over=handed_over, topics=topics)
        answers.append(peers.call(target, API_VERSION, request))
    if not answers:
        return
    try:
        await asyncio.wait(answers, timeout=ANSWER_MAX_S)
    finally:
        for answer in answers:
            # one that comes later is for nobody
            if answer.cancel() or answer.cancelled():
                continue
            if isinstance(error := answer.exception(), PeerUnavailable):
                log.info("a broker does not hear of what it is to lead", error=str(error))
