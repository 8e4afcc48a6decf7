from __future__ import annotations

import asyncio

import pytest

from broker.handoff import parking as parking_module
from broker.handoff.parking import WAIT_MAX_S, Parking
from tests.broker.handlers_data.virtual_loop import run

HERE, THERE = ("t", 0), ("t", 1)


def test_who_is_parked_is_called_once_in_order_and_only_for_its_partition() -> None:
    async def main() -> None:
        parking, called = Parking(), []
        for number in range(3):
            assert parking.park(HERE, lambda number=number: called.append(number))  # type: ignore[misc]
        assert parking.park(THERE, lambda: called.append(9))
        parking.release(HERE)
        parking.release(HERE)
        assert called == [0, 1, 2]
        assert parking.places() == [THERE]
        parking.close()
        assert called == [0, 1, 2, 9]
        assert not parking

    run(main())


def test_nobody_waits_for_longer_than_the_limit() -> None:
    async def main() -> None:
        loop, parking, called = asyncio.get_running_loop(), Parking(), asyncio.Event()
        parking.park(HERE, called.set)
        began = loop.time()
        await called.wait()
        assert loop.time() - began == pytest.approx(WAIT_MAX_S)
        assert not parking

    run(main())


def test_who_leaves_is_not_called_and_not_kept() -> None:
    async def main() -> None:
        parking, called = Parking(), []
        ones = [lambda number=number: called.append(number) for number in range(3)]  # type: ignore[misc]
        for one in ones:
            parking.park(HERE, one)
        parking.leave(HERE, ones[1])
        parking.release(HERE)
        assert called == [0, 2]
        parking.leave(HERE, ones[0])
        parking.park(THERE, ones[1])
        parking.leave(THERE, ones[1])
        assert not parking
        await asyncio.sleep(2 * WAIT_MAX_S)
        assert called == [0, 2]

    run(main())


def test_there_is_room_for_so_many_and_none_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking_module, "PARKED_MAX", 2)

    async def main() -> None:
        parking = Parking()
        assert [parking.park(HERE, lambda: None) for _ in range(3)] == [True, True, False]
        parking.close()
        assert not parking.park(THERE, lambda: None)

    run(main())


def test_one_that_fails_does_not_keep_the_others_waiting() -> None:
    async def main() -> None:
        parking, called = Parking(), []

        def fail() -> None:
            raise ValueError("a defect")

        parking.park(HERE, fail)
        parking.park(HERE, lambda: called.append(1))
        parking.release(HERE)
        assert called == [1]

    run(main())
