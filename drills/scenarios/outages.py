"""The object store or the database is away, or slow."""

from __future__ import annotations

from drills.backends import S3Store
from drills.drill import MB, Drill
from drills.run import Run

LEASE_S = 4.0
"""Shorter than the default of 10 s, so that the drill is."""
STORE_OUTAGE_S = 60.0
BACK_WITHIN_S = 10.0
"""Attempts are up to 5 s apart."""
SLOW_RATE = 400_000.0
"""Bytes per second: a third of what the load needs."""
SLOW_GAP_MAX_S = 15.0
"""A broker that is full lets producers wait until a sixth of its bound is uploaded, at a third of this rate."""


async def store_outage(run: Run) -> None:
    async with run.phase("before"):
        await run.wait(3)
    async with run.phase("store away") as away:
        run.say(f"the object store is away for {STORE_OUTAGE_S * run.options.pace:.0f} s")
        await run.cluster.in_thread(run.cluster.store.take_away)
        await run.wait(STORE_OUTAGE_S)
    if run.cluster.setup.wal == "file":
        run.promise("longest time without an acknowledgement while it is away", run.gap_s(away), 1.0)
    async with run.phase("back") as back:
        await run.cluster.in_thread(run.cluster.store.bring_back)
        returned = run.now()
        run.say("the object store is back")
        await run.load.wait_for_acks(len(run.load.places))
        await run.wait(BACK_WITHIN_S)
    lasted = run.timeline.longest_gap(back.start, back.end).end - returned
    run.promise("until every partition is acknowledged again", max(lasted, 0.0), BACK_WITHIN_S)


async def slow_store(run: Run) -> None:
    store = run.cluster.store
    assert isinstance(store, S3Store)
    async with run.phase("before"):
        await run.wait(3)
    async with run.phase("slow") as slow:
        store.throttle(SLOW_RATE)
        run.say(f"the store takes {SLOW_RATE / 1000:.0f} kB/s, {run.load.rate * 1.024:.0f} kB/s are produced")
        await run.wait(30)
    run.promise("longest time without an acknowledgement while it is slow", run.gap_s(slow), SLOW_GAP_MAX_S)
    async with run.phase("fast again") as fast:
        store.throttle(None)
        run.say("the store is fast again")
        await run.wait(15)
    end = run.timeline.longest_gap(fast.start, fast.end).end - fast.start
    run.promise("until every partition is acknowledged again", max(end, 0.0), BACK_WITHIN_S)


async def database_outage(run: Run) -> None:
    below, above = LEASE_S / 2, LEASE_S * 2.5
    async with run.phase("before"):
        await run.wait(3)
    async with run.phase("below the lease") as short:
        run.say(f"the database is away for {below:.0f} s; leases are {LEASE_S:.0f} s")
        await run.cluster.in_thread(run.cluster.database.take_away)
        await run.wait(below)
        await run.cluster.in_thread(run.cluster.database.bring_back)
        run.say("the database is back")
        await run.wait(3)
    run.promise("longest time without an acknowledgement in an outage below the lease", run.gap_s(short), 0.5)
    async with run.phase("above the lease"):
        run.say(f"the database is away for {above:.0f} s")
        await run.cluster.in_thread(run.cluster.database.take_away)
        await run.wait(above)
    async with run.phase("back") as back:
        await run.cluster.in_thread(run.cluster.database.bring_back)
        returned = run.now()
        run.say("the database is back")
        await run.load.wait_for_acks(len(run.load.places))
        await run.wait(BACK_WITHIN_S)
    lasted = run.timeline.longest_gap(back.start, back.end).end - returned
    run.promise("until every partition is acknowledged again", max(lasted, 0.0), BACK_WITHIN_S)


DRILLS = (
    Drill(
        "store-outage",
        "The object store is away for a minute.",
        "a file log goes on acknowledging; all is well 10 s after its return; nothing lost",
        store_outage,
    ),
    Drill(
        "slow-store",
        "The object store takes a third of what is produced, for half a minute.",
        "producers are slowed, none waits for more than 15 s; nothing is lost",
        slow_store,
        throttled=True,
        objects="s3",
        env={
            "TAILRACE_STORAGE_BLOCK_SIZE": str(MB // 4),
            "TAILRACE_STORAGE_PRESSURE_LOW_SIZE": str(5 * MB),
            "TAILRACE_STORAGE_PRESSURE_HIGH_SIZE": str(6 * MB),
            "TAILRACE_STORAGE_UNUPLOADED_SIZE_MAX": str(8 * MB),
        },
    ),
    Drill(
        "database-outage",
        "The metadata database is away, for less than a lease, then for longer.",
        "below the lease nobody notices; all is well 10 s after its return; nothing lost",
        database_outage,
        env={"TAILRACE_LEASE_MS": str(int(LEASE_S * 1000))},
    ),
)
