from broker.coordinator.timers import Timers


def due(timers: Timers[str], now_ms: int) -> list[str]:
    timers.now_ms = now_ms
    events = []
    while (timer := timers.pop_due()) is not None:
        events.append(timer.event)
    return events


def test_events_come_in_order_of_their_deadlines() -> None:
    timers: Timers[str] = Timers()
    timers.schedule(("b",), 20, None, "b")
    timers.schedule(("a",), 10, None, "a")
    timers.schedule(("c",), 20, None, "c")
    assert due(timers, 9) == []
    assert due(timers, 20) == ["a", "b", "c"]


def test_scheduling_again_moves_the_event_later_or_earlier() -> None:
    timers: Timers[str] = Timers()
    timers.schedule(("late",), 10, None, "first")
    timers.schedule(("late",), 30, None, "second")
    timers.schedule(("soon",), 30, None, "first")
    timers.schedule(("soon",), 10, None, "second")
    assert due(timers, 10) == ["second"]
    assert due(timers, 29) == []
    assert due(timers, 30) == ["second"]
    assert timers.next_ms() is None


def test_a_cancelled_event_does_not_come_even_if_its_key_is_used_again() -> None:
    timers: Timers[str] = Timers()
    timers.schedule(("k",), 10, None, "old")
    timers.cancel(("k",))
    timers.schedule(("k",), 20, None, "new")
    assert due(timers, 15) == []
    assert timers.next_ms() == 20
    assert due(timers, 20) == ["new"]


def test_moving_a_timer_many_times_keeps_one_heap_entry() -> None:
    timers: Timers[str] = Timers()
    for now_ms in range(1000):
        timers.now_ms = now_ms
        timers.schedule(("session",), 10_000, None, "over")
    assert len(timers._heap) == 1
    assert due(timers, 10_998) == []
    assert due(timers, 10_999) == ["over"]
