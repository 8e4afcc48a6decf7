"""What is done to a cluster on purpose: brokers that stop, come and go, partitions that move."""

from __future__ import annotations

from drills.drill import MB, Drill
from drills.run import Run

GAP_MAX_S = 0.3
SHARE_WITHIN_S = 10.0
DRAIN_TIMEOUT_S = 60.0
WITHOUT_COMPACTION = {"TAILRACE_STORAGE_COMPACTION_INTERVAL_MS": "3600000"}
"""So that what is written and read is the tail that moves, and not old data that is put in order."""


async def controlled_stop(run: Run) -> None:
    async with run.phase("before"):
        await run.wait(3)
    node = await run.a_leader()
    run.say(f"broker {node} is told to stop (SIGTERM); it leads {await run.led_by(node)} partitions")
    async with run.phase("stopped") as stopped:
        code = await run.cluster.stop(node)
        run.say(f"it ended with exit code {code}")
        await run.wait(3)
    run.promise("exit code", code, 0, "")
    run.promise("longest time without an acknowledgement", run.gap_s(stopped), GAP_MAX_S)
    async with run.phase("started again"):
        await run.cluster.start_again(node)
        await run.wait(3)


async def rolling_restart(run: Run) -> None:
    async with run.phase("before"):
        await run.wait(3)
    worst = 0.0
    for node in run.cluster.alive():
        async with run.phase(f"restart of {node}") as restart:
            run.say(f"broker {node} is told to stop; it leads {await run.led_by(node)} partitions")
            await run.cluster.stop(node)
            await run.cluster.start_again(node)
            run.say(f"broker {node} serves again")
            await run.wait(4)
        worst = max(worst, run.gap_s(restart))
    run.promise("longest time without an acknowledgement", worst, GAP_MAX_S)


async def scale_out(run: Run) -> None:
    async with run.phase("two brokers"):
        await run.wait(3)
    async with run.phase("a third one") as third:
        await run.cluster.add(3)
        run.say("broker 3 serves")
        share = len(run.load.places) // 3 - 1

        async def has_its_share() -> bool:
            return await run.led_by(3) >= share

        took_s = await run.until(f"broker 3 leads {share} partitions", has_its_share, SHARE_WITHIN_S * 3)
        run.say(f"it leads {await run.led_by(3)} of {len(run.load.places)} partitions")
        await run.wait(3)
    run.promise("until it has its share", took_s, SHARE_WITHIN_S)
    run.promise("longest time without an acknowledgement", run.gap_s(third), GAP_MAX_S)


async def scale_in(run: Run) -> None:
    node = await run.a_leader()
    async with run.phase("before"):
        await run.wait(3)
    async with run.phase("drained") as drained:
        run.say(f"tailrace brokers drain {node}; it leads {await run.led_by(node)} partitions")
        await run.tailrace("brokers", "drain", str(node))

        async def is_empty() -> bool:
            return await run.led_by(node) == 0

        await run.until("it leads nothing", is_empty, DRAIN_TIMEOUT_S)
        run.say("it leads nothing any more")
        await run.wait(2)
    run.promise("longest time without an acknowledgement in the drain", run.gap_s(drained), GAP_MAX_S)
    async with run.phase("stopped") as stopped:
        code = await run.cluster.stop(node)
        run.say(f"it is stopped, exit code {code}")
        await run.wait(3)
    run.promise("longest time without an acknowledgement in the stop", run.gap_s(stopped), GAP_MAX_S)
    async with run.phase("back again") as back:
        await run.tailrace("brokers", "undrain", str(node))
        await run.cluster.start_again(node)
        await run.wait(3)
    run.promise("longest time without an acknowledgement when it is back", run.gap_s(back), GAP_MAX_S)


async def reassign(run: Run) -> None:
    held = run.options.held
    async with run.phase("filling"):
        await run.load.fill(held)
        run.say(f"the topic holds {held / MB:.0f} MB")
        await run.until_uploaded()
    source = await run.a_leader()
    leaders = await run.load.admin.leaders(run.load.topic)
    target = run.chance.choice(sorted(set(await run.load.admin.nodes()) - {source}))
    moved = [place for place, leader in leaders.items() if leader == source]
    run.say(f"{len(moved)} partitions are reassigned from broker {source} to broker {target}")
    async with run.phase("reassigned") as reassigned:
        await run.load.admin.reassign({place: [target] for place in moved})

        async def are_there() -> bool:
            now = await run.load.admin.leaders(run.load.topic)
            return all(now[place] == target for place in moved)

        took_s = await run.until(f"broker {target} leads them", are_there, DRAIN_TIMEOUT_S)
        run.say(f"broker {target} leads them, {took_s:.2f} s later")
        await run.wait(2)
    run.promise("longest time without an acknowledgement", run.gap_s(reassigned), GAP_MAX_S)
    written, read = reassigned.traffic
    if written is not None:
        run.promise("written to the store meanwhile", written, 16 * MB, "bytes")
    if read is not None:
        run.promise("read from the store meanwhile", read, 16 * MB, "bytes")


DRILLS = (
    Drill(
        "controlled-stop",
        "A broker that leads is stopped (SIGTERM) under load.",
        "no acknowledgement missing for more than 0.3 s; nothing lost",
        controlled_stop,
        repeatable=True,
    ),
    Drill(
        "rolling-restart",
        "One broker after the other is stopped and started again.",
        "no acknowledgement missing for more than 0.3 s; nothing lost",
        rolling_restart,
        repeatable=True,
    ),
    Drill(
        "scale-out",
        "A third broker is started beside two under load.",
        "it leads its share within 10 s; no acknowledgement missing for more than 0.3 s",
        scale_out,
        brokers=2,
    ),
    Drill(
        "scale-in",
        "A broker is drained (tailrace brokers drain), stopped, and comes back.",
        "no acknowledgement missing for more than 0.3 s; nothing lost",
        scale_in,
        repeatable=True,
    ),
    Drill(
        "reassign",
        "All partitions of one broker are reassigned to another one while they hold old data (--held).",
        "no acknowledgement missing for more than 0.3 s; only the tail moves",
        reassign,
        needs_processes=False,
        repeatable=True,
        env=WITHOUT_COMPACTION,
    ),
)
