"""Consumers that come, go, go back and read everything again, while records come in."""

from __future__ import annotations

from bench.history import Assignment
from drills.client.client import Client
from drills.drill import MB, Drill
from drills.reading import GroupReader, TailReader
from drills.run import Run
from drills.timeline import Phase

GROUP = "drill-readers"
BURST = 4
"""Times the usual rate."""
HEARTBEAT_MS = "500"
ENV = {
    "TAILRACE_BROKER_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": HEARTBEAT_MS,
    "TAILRACE_BROKER_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS": HEARTBEAT_MS,
}
"""Members hear of changes every half second, not every five."""


class Group:
    """A group whose members come and go."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._members: list[GroupReader] = []
        self._count = 0

    async def grow(self, count: int = 1) -> None:
        for _ in range(count):
            self._count += 1
            name = f"reader-{self._count}"
            self._members.append(await self._run.load.join(GROUP, name))
            self._run.say(f"{name} joins: {len(self._members)} members")

    async def shrink(self) -> None:
        member = self._members.pop(self._run.chance.randrange(len(self._members)))
        await member.stop()
        self._run.say(f"{member.client.name} leaves: {len(self._members)} members")

    async def stop(self) -> None:
        while self._members:
            await self.shrink()

    async def shift(self, seconds: float) -> None:
        """Somebody comes or goes every two seconds."""
        end = self._run.now() + seconds * self._run.options.pace
        while self._run.now() < end:
            if len(self._members) > 3 or (len(self._members) > 1 and self._run.chance.random() < 0.5):
                await self.shrink()
            else:
                await self.grow()
            await self._run.wait(2)


async def consumers_shifting(run: Run) -> None:
    group = Group(run)
    async with run.phase("three readers"):
        await group.grow(3)
        await run.wait(3)
    async with run.phase("shifting") as shifting:
        await group.shift(20)
    run.promise("longest time without an acknowledgement", run.gap_s(shifting), 0.5)


async def replay_during_burst(run: Run) -> None:
    async with run.phase("filling"):
        await run.load.fill(run.options.held)
        run.say(f"the topic holds {run.options.held / MB:.0f} MB")
        await run.wait(3)
    run.load.rate *= BURST
    async with run.phase("burst") as burst:
        run.say(f"burst: {run.load.rate} records/s")
        await run.wait(5)
    async with run.phase("replay") as replay:
        await _replay(run)
    run.load.rate //= BURST
    run.say(f"the burst is over: {run.load.rate} records/s")
    async with run.phase("after"):
        await run.wait(3)
    run.promise("longest time without an acknowledgement in the burst", run.gap_s(burst), 0.5)
    run.promise("longest time without an acknowledgement in the replay", run.gap_s(replay), 0.5)


async def _replay(run: Run) -> None:
    """A new reader reads everything that is there now, from the start on."""
    client: Client = await run.load.client("replay")
    ends = await run.load.admin.offsets(run.load.places)
    reader = TailReader(client, run.load.places, run.load.id_of)
    began = run.now()
    run.say("a new reader begins at the start of the log")
    reader.start(dict.fromkeys(run.load.places, 0))
    await reader.wait_until_at(ends, 120)
    took_s = run.now() - began
    count = sum(len(assignment.seen) for assignment in reader.assignments.values())
    run.say(f"it has read {count} records, {took_s:.1f} s later")
    await reader.close()


async def _roll_back(run: Run, group: Group) -> None:
    """The group goes back to the middle of what it has read, and reads it again."""
    await group.stop()
    committed = await run.load.admin.committed(GROUP, run.load.places)
    target = {place: at // 2 for place, at in committed.items()}
    await run.load.admin.commit(GROUP, target)
    for place, at in target.items():
        run.load.other_assignment(Assignment("rollback", place.partition, committed[place], committed=at))
    run.say("rollback: the group begins again at half of what it had read")
    await group.grow(3)


async def uncomfortable(run: Run) -> None:
    group = Group(run)
    async with run.phase("before"):
        await group.grow(3)
        await run.load.fill(run.options.held)
        run.say(f"the topic holds {run.options.held / MB:.0f} MB")
        await run.wait(3)
    run.load.rate *= BURST
    run.say(f"burst: {run.load.rate} records/s")
    phases: list[Phase] = []
    async with run.phase("burst, readers shift") as phase:
        phases.append(phase)
        await group.shift(6)
    victim = await run.a_leader()
    async with run.phase("a broker is killed") as phase:
        phases.append(phase)
        run.say(f"broker {victim} is killed (SIGKILL); it leads {await run.led_by(victim)} partitions")
        await run.cluster.kill(victim)
        await group.shift(4)
    async with run.phase("replay") as phase:
        phases.append(phase)
        await _replay(run)
    async with run.phase("rollback") as phase:
        phases.append(phase)
        await _roll_back(run, group)
        await run.wait(3)
    run.load.rate //= BURST
    run.say(f"the burst is over: {run.load.rate} records/s")
    async with run.phase("started again") as phase:
        phases.append(phase)
        await run.cluster.start_again(victim)
        run.say(f"broker {victim} serves again")
        await run.wait(5)
    worst = max(run.gap_s(phase) for phase in phases)
    run.promise("longest time without an acknowledgement", worst, 1.5)


DRILLS = (
    Drill(
        "consumers-shifting",
        "Members of a consumer group come and go every two seconds.",
        "each record is read, in order, by one member at a time; producers notice nothing",
        consumers_shifting,
        needs_processes=False,
        env=ENV,
    ),
    Drill(
        "replay-during-burst",
        "Old data (--held) is read again from its start, during a burst of four times the load.",
        "no acknowledgement missing for more than 0.5 s",
        replay_during_burst,
        needs_processes=False,
    ),
    Drill(
        "uncomfortable",
        "All at once: a burst, shifting consumers, a broker killed, a replay, a group rolled back.",
        "no acknowledgement missing for more than 1.5 s; nothing lost",
        uncomfortable,
        env=ENV,
    ),
)
