"""Brokers that die, freeze, or lose their disk."""

from __future__ import annotations

import asyncio
import json
import math
import shutil

from drills.cluster import tailrace
from drills.drill import Drill
from drills.run import Run

BACK_WITHIN_S = 4.0
LEASE_S = 4.0
"""Shorter than the default of 10 s, so that the drill is."""
SHORT_LEASE = {"TAILRACE_LEASE_MS": str(int(LEASE_S * 1000))}
UNUPLOADED_AGE_MAX_S = 3.0
"""Uploads begin a second after the first record that they hold."""
_LOST_LOG = "partitions stay offline: write-ahead log of a dead broker not recovered"


async def leader_kill(run: Run) -> None:
    async with run.phase("before"):
        await run.wait(3)
    victim = await run.a_leader()
    run.say(f"broker {victim} is killed (SIGKILL); it leads {await run.led_by(victim)} partitions")
    async with run.phase("killed") as killed:
        await run.cluster.kill(victim)
        await run.wait(5)
    run.promise("longest time without an acknowledgement", run.gap_s(killed), 1.0)
    async with run.phase("started again"):
        await run.cluster.start_again(victim)
        run.say(f"broker {victim} serves again")
        await run.wait(3)


async def kill_all(run: Run) -> None:
    async with run.phase("before"):
        await run.wait(3)
    brokers = run.cluster.alive()
    async with run.phase("killed") as killed:
        await run.cluster.kill(*brokers)
        run.say("all brokers are killed (SIGKILL)")
        await run.wait(1)
        began = run.now()
        await run.cluster.start_again(*brokers)
        run.say(f"all are started again, and serve {run.now() - began:.1f} s later")
        await run.load.wait_for_acks(len(run.load.places))
        await run.wait(3)
    lasted = run.timeline.longest_gap(killed.start, killed.end).end - began
    run.promise("from the start of the processes until every partition is acknowledged again", lasted, BACK_WITHIN_S)


async def pause(run: Run) -> None:
    async with run.phase("before"):
        await run.wait(3)
    victim = await run.a_leader()
    run.say(f"broker {victim} is paused (SIGSTOP) beyond its lease of {LEASE_S:.0f} s")
    async with run.phase("paused"):
        run.cluster.pause(victim)

        async def taken_over() -> bool:
            leaders = (await run.load.admin.leaders(run.load.topic)).values()
            return victim not in leaders and -1 not in leaders

        took_s = await run.until("the others take over", taken_over, LEASE_S * 3)
        run.say("the others lead its partitions")
        await run.wait(4)
    run.promise("until the others have taken over", took_s, LEASE_S + 2)
    async with run.phase("resumed"):
        run.cluster.resume(victim)
        run.say(f"broker {victim} goes on (SIGCONT)")
        code = await run.cluster.ended(victim, LEASE_S * 3)
        run.say(f"it has seen that it was replaced, and ended with exit code {code}")
        await run.wait(2)
    async with run.phase("started again") as again:
        await run.cluster.start_again(victim)
        await run.wait(3)
    run.promise("longest time without an acknowledgement after that", run.gap_s(again), 1.0)


async def disk_lost(run: Run) -> None:
    tail = await run.other_load("drill-tail", partitions=6, rate=300)
    async with run.phase("before"):
        await run.wait(3)
    victim = await run.a_leader()
    async with run.phase("lost"):
        killed_at = run.now()
        await run.cluster.kill(victim)
        await tail.stop()
        await asyncio.to_thread(shutil.rmtree, run.cluster.brokers[victim].data_dir)
        run.say(f"broker {victim} is killed, and its directory is deleted")
        given_up = await _give_up(run, victim) if run.cluster.setup.wal == "file" else {}

        async def all_led() -> bool:
            return -1 not in (await run.load.admin.leaders(run.load.topic)).values() and not await run.led_by(victim)

        await run.until("the others take over", all_led, LEASE_S * 4)
        run.say("the others lead its partitions")
        await run.wait(3)
    async with run.phase("started again"):
        await run.cluster.start_again(victim)
        await run.wait(3)
    await tail.settle()
    missing = await tail.missing()
    untold = [send for send, _ in missing if (send.offset or 0) < given_up.get(send.partition, math.inf)]
    oldest_s = killed_at - min((created for _, created in missing), default=killed_at)
    run.say(f"without durability=object, {len(missing)} acknowledged records are lost")
    run.promise("of them outside what was told when the log was given up", len(untold), 0, "")
    run.promise("age of the oldest of them when the broker died", oldest_s, UNUPLOADED_AGE_MAX_S)


async def _give_up(run: Run, victim: int) -> dict[int, int]:
    """As docs/operations.md says; returns from which offset on partitions of the other topic lost everything."""

    async def told() -> bool:
        return any(_LOST_LOG in text for text in run.cluster.logs().values())

    await run.until("the survivors tell that the log is missing", told, LEASE_S * 4)
    answer = await tailrace(
        *("brokers", "give-up", str(victim), "--metadata", run.cluster.database.url, "--accept-loss", "--json")
    )
    lost = json.loads(answer)
    run.say(f"tailrace brokers give-up {victim}: the tails of {len(lost)} partitions are given up")
    return {row["partition"]: row["lost_from_offset"] for row in lost if row["topic"] == "drill-tail"}


DRILLS = (
    Drill(
        "leader-kill",
        "A broker that leads is killed (kill -9) under load.",
        "no acknowledgement missing for more than 1.0 s; nothing lost",
        leader_kill,
        repeatable=True,
    ),
    Drill(
        "kill-all",
        "All brokers are killed at once and started again.",
        "acknowledging again 4 s after the start; nothing lost",
        kill_all,
        repeatable=True,
    ),
    Drill(
        "pause",
        "A broker is paused (SIGSTOP) beyond its lease, replaced, and goes on.",
        "replaced within its lease and 2 s; it acknowledges nothing that is lost",
        pause,
        env=SHORT_LEASE,
    ),
    Drill(
        "disk-lost",
        "A broker is killed and its directory is gone for good.",
        "nothing lost with tailrace.durability=object; else at most the last 3 s, as told",
        disk_lost,
        env=SHORT_LEASE,
        topic={"tailrace.durability": "object"},
    ),
)
