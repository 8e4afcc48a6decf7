"""`group.protocol=consumer` in Java and librdkafka: one owner at a time and no record missed, come what may."""

from __future__ import annotations

from pathlib import Path

import pytest

from .admin import configure_group, create_topic
from .brokers import QUICK, a_broker
from .groups_drill import a_drill
from .members import CLASSIC, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]
TOPICS = {"one": 4, "two": 3}


def test_members_come_go_die_and_pause(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker, a_drill(broker, "g", TOPICS) as drill:
        java = drill.join("java")
        librdkafka = drill.join("librdkafka")
        with drill.incremental():
            third = drill.join("java")
        drill.kill_broker()
        with drill.incremental():
            drill.leave(librdkafka)
        drill.pause_beyond_session(java)
        drill.kill(third)
        print(drill.finish())


def test_static_members_come_back_to_their_partitions(tmp_path: Path) -> None:
    configs = {**QUICK, "group.consumer.session.timeout.ms": "30000"}  # on a busy machine a new process takes its time
    with a_broker(tmp_path, configs) as broker, a_drill(broker, "g", TOPICS) as drill:
        one, two = drill.join("java", instance="one"), drill.join("librdkafka", instance="two")
        had = one.owned()
        intruder = drill.join("java", instance="one", settle=False)
        wait_until(lambda: intruder.ended, lambda: f"an instance that is in use is refused: {intruder.events}")
        assert [each["error"] for each in intruder.events if "error" in each] == ["UnreleasedInstanceIdException"]
        told = len(two.events)
        drill.living.remove(one)
        one.leave()
        again = drill.join("java", instance="one")
        assert again.owned() == had
        assert not two.has_told("revoked", told)
        configure_group(broker.address, "g", {"consumer.session.timeout.ms": "5000"})
        drill.kill(again)
        print(drill.finish())


def test_regular_expressions_take_in_new_topics(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker, a_drill(broker, "g", {"shop-a": 3, "shop-b": 2}) as drill:
        create_topic(broker.address, "workshop", 2)
        for client in ("java", "librdkafka"):
            drill.join(client, topics="^shop-.*")
        create_topic(broker.address, "shop-new", 3)
        drill.topics["shop-new"] = 3
        drill.settle()
        print(drill.finish())


def test_a_group_migrates_to_the_new_protocol_and_back(tmp_path: Path) -> None:
    """Rolling, one member after the other, with Java and librdkafka on both sides."""
    with a_broker(tmp_path) as broker, a_drill(broker, "g", TOPICS) as drill:
        old = [drill.join("java", CLASSIC), drill.join("librdkafka", CLASSIC)]
        new = [drill.join("librdkafka")]
        drill.leave(old[0])
        new.append(drill.join("java"))
        drill.leave(old[1])
        for member, client in zip(new, ("java", "librdkafka"), strict=True):
            drill.join(client, CLASSIC)
            drill.leave(member)
        print(drill.finish())
