"""Virtual time, and processes that really are processes: each has its own event loop, threads, clocks and memory.

A `Process` runs the product's code unchanged. Its main thread turns a `ProcessLoop`; every other thread is a greenlet
that gives way when it blocks. Whatever takes time (a disk, a message, a thread's start) is an event of the `Kernel`,
which jumps from one to the next.

* `pause` is SIGSTOP: nothing of the process runs, the world and its clocks go on, what the disk was doing completes.
* `kill` is SIGKILL: nothing of it ever runs again, no `finally`, no callback.
* All randomness comes from one seed, so that a seed is one history.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import greenlet

WALL_CLOCK_S = 1_700_000_000.0
"""Of the world when it begins."""
_TURN_DELAY_S = 0.00005
"""Up to so long it takes until a process that has something to do gets a processor."""
_THREAD_DELAY_S = 0.0002


class Stuck(AssertionError):
    """Nothing will ever happen again, or more happens than any history needs."""


class Event:
    __slots__ = ("args", "call", "when")

    def __init__(self, when: float, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when = when
        self.call: Callable[..., object] | None = call
        self.args = args

    def cancel(self) -> None:
        self.call = None


class Kernel:
    """The order of all that happens. `now` is true time, in seconds since the history's begin."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.hub = greenlet.getcurrent()
        self.current: Process | None = None
        """The process whose code is running, if it is one's."""
        self.processes: list[Process] = []
        self.event_count = 0
        self._events: list[tuple[float, int, Event]] = []
        self._numbers = count()

    def at(self, when: float, call: Callable[..., object], *args: Any) -> Event:
        if when < self.now:
            when = self.now
        event = Event(when, call, args)
        heapq.heappush(self._events, (when, next(self._numbers), event))
        return event

    def after(self, delay: float, call: Callable[..., object], *args: Any) -> Event:
        return self.at(self.now + delay, call, *args)

    def run(self, is_over: Callable[[], bool], time_max: float) -> None:
        events = self._events
        while not is_over():
            if not events:
                raise Stuck("nothing will ever happen again")
            when, _, event = heapq.heappop(events)
            if event.call is None:
                continue
            self.now = when
            if self.now > time_max:
                raise Stuck(f"the history is not over after {time_max} s")
            self.event_count += 1
            event.call(*event.args)


class ProcessLoop(asyncio.BaseEventLoop):
    """The event loop of one process; the kernel gives it its turns."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda loop, context: self.errors.append(context))
        self._scheduled: list[asyncio.TimerHandle]
        self._ready: deque[asyncio.Handle]

    def time(self) -> float:
        return self.process.clock()

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        self.process.wake()
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        self.process.wake_at(when)
        return handle

    def _check_closed(self) -> None:
        """What is left of a dead process may say what it likes."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when it is due."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                self.call_soon(_settle, future, None, error)
            else:
                self.call_soon(_settle, future, result, None)

        self.process.start_thread(work)
        return future

    def turn(self) -> None:
        """What is ready and what is due, once."""
        now = self.time()
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0].when() <= now + 1e-9:
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
        if ready:
            self.process.wake()
        else:
            while scheduled and scheduled[0].cancelled():
                heapq.heappop(scheduled)
            if scheduled:
                self.process.wake_at(scheduled[0].when())

    # -- sockets: see `network` -------------------------------------------------------------------------------------
    async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> Any:
        return [(2, 1, 6, "", (host, port))]

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **kwargs: Any) -> Any:
        return await self.process.network.connect(self.process, protocol_factory, host, port)

    async def create_server(self, protocol_factory: Any, *args: Any, sock: Any = None, **kwargs: Any) -> Any:
        return sock.serve(protocol_factory)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class Process:
    """`host` is the machine it runs on; `rate` how fast its clocks run against true time."""

    def __init__(self, kernel: Kernel, network: Any, name: str, host: str, rate: float = 1.0) -> None:
        self.kernel = kernel
        self.network = network
        self.name = name
        self.host = host
        self.rng = random.Random(kernel.rng.getrandbits(64))
        self.is_paused = False
        self.is_dead = False
        self.machine: object = host
        """Which one it is, for as long as that is up."""
        self.on_death: list[Callable[[], None]] = []
        self._rate = rate
        self._clock_base = self.rng.uniform(100, 1000)
        self._wall_base = WALL_CLOCK_S + self.rng.uniform(-0.5, 0.5)
        self._threads: list[greenlet.greenlet] = []
        self._main = greenlet.greenlet(self._run_main, kernel.hub)
        self._main_blocked = False
        self._turn: Event | None = None
        self._held: list[tuple[greenlet.greenlet, object]] = []
        self.loop = ProcessLoop(self)
        kernel.processes.append(self)

    # -- clocks -----------------------------------------------------------------------------------------------------
    def clock(self) -> float:
        """Monotonic, seconds."""
        return self._clock_base + self._rate * self.kernel.now

    def wall_clock(self) -> float:
        return self._wall_base + self._rate * self.kernel.now

    # -- the main thread --------------------------------------------------------------------------------------------
    def wake(self) -> None:
        self._turn_at(self.kernel.now + self.rng.random() * _TURN_DELAY_S)

    def wake_at(self, clock: float) -> None:
        self._turn_at(max((clock - self._clock_base) / self._rate, self.kernel.now) + 1e-9)

    def _turn_at(self, when: float) -> None:
        if self._main_blocked or self.is_dead:
            return
        turn = self._turn
        if turn is not None:
            if turn.when <= when:
                return
            turn.cancel()
        self._turn = self.kernel.at(when, self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        if not self.is_dead and not self.is_paused and not self._main_blocked:
            self._switch(self._main)

    def _run_main(self, _: object = None) -> None:
        while True:
            self.loop.turn()
            self.kernel.hub.switch()

    def _switch(self, thread: greenlet.greenlet, value: object = None) -> None:
        kernel = self.kernel
        kernel.current = self
        asyncio._set_running_loop(self.loop)
        try:
            thread.switch(value)
        finally:
            asyncio._set_running_loop(None)
            kernel.current = None

    # -- threads ----------------------------------------------------------------------------------------------------
    @property
    def thread_count(self) -> int:
        return len(self._threads)

    def start_thread(self, work: Callable[[], object]) -> greenlet.greenlet:
        def body(_: object = None) -> None:
            try:
                work()
            finally:
                self._threads.remove(thread)

        thread = greenlet.greenlet(body, self.kernel.hub)
        self._threads.append(thread)
        self.resume(thread, self.rng.random() * _THREAD_DELAY_S)
        return thread

    def block(self, delay: float, effect: Callable[[], object] | None = None) -> Any:
        """The running thread waits so long; `effect` then happens, whether the process is paused or not."""
        self.kernel.after(delay, self._completed, greenlet.getcurrent(), effect)
        return self.park()

    def park(self) -> Any:
        """The running thread waits for `resume`; returns what that is given."""
        if greenlet.getcurrent() is not self._main:
            return self.kernel.hub.switch()
        self._main_blocked = True
        value = self.kernel.hub.switch()
        self._main_blocked = False
        return value

    def resume(self, thread: greenlet.greenlet, delay: float = 0.0, value: object = None) -> None:
        self.kernel.after(delay, self._go_on, thread, value)

    def _completed(self, thread: greenlet.greenlet, effect: Callable[[], object] | None) -> None:
        if not self.is_dead:
            self._go_on(thread, None if effect is None else effect())

    def _go_on(self, thread: greenlet.greenlet, value: object) -> None:
        if self.is_dead:
            return
        if self.is_paused:
            self._held.append((thread, value))
        else:
            self._switch(thread, value)

    # -- signals ----------------------------------------------------------------------------------------------------
    def pause(self) -> None:
        self.is_paused = True

    def go_on(self) -> None:
        self.is_paused = False
        held, self._held = self._held, []
        for thread, value in held:
            self.kernel.after(0.0, self._go_on, thread, value)
        self.wake()

    def kill(self) -> None:
        """From outside of it."""
        if self.is_dead:
            return
        self.is_dead = True
        if self._turn is not None:
            self._turn.cancel()
        for callback in list(self.on_death):
            callback()

    def bury(self) -> None:
        """At the end of the history: let go what is left of it."""
        self.is_dead = True
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        for thread in [*self._threads, self._main]:
            with suppress(BaseException):
                thread.throw(greenlet.GreenletExit)
        self._threads.clear()
        self.loop._ready.clear()
        self.loop._scheduled.clear()
        self.loop._closed = True  # type: ignore[attr-defined]


class Thread:
    """`threading.Thread`, of the process whose code makes it."""

    def __init__(self, process: Process, target: Callable[[], object]) -> None:
        self._process = process
        self._target = target
        self._ended = False
        self._joining: list[greenlet.greenlet] = []

    def start(self) -> None:
        self._process.start_thread(self._run)

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._ended = True
            for thread in self._joining:
                self._process.resume(thread)

    def join(self) -> None:
        if not self._ended:
            self._joining.append(greenlet.getcurrent())
            self._process.park()


class Queue:
    """`queue.SimpleQueue` between the threads of one process."""

    def __init__(self, process: Process, empty: type[Exception]) -> None:
        self._process = process
        self._empty = empty
        self._items: deque[Any] = deque()
        self._waiting: deque[tuple[greenlet.greenlet, Event | None]] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waiting:
            thread, timer = self._waiting.popleft()
            if timer is not None:
                timer.cancel()
            self._process.resume(thread, self._process.rng.random() * _THREAD_DELAY_S)

    def get(self, timeout: float | None = None) -> Any:
        while not self._items:
            thread = greenlet.getcurrent()
            timer = None
            if timeout is not None:
                timer = self._process.kernel.after(timeout, self._timed_out, thread)
            self._waiting.append((thread, timer))
            if self._process.park() == "timed out":
                raise self._empty
        return self._items.popleft()

    def _timed_out(self, thread: greenlet.greenlet) -> None:
        self._waiting = deque(entry for entry in self._waiting if entry[0] is not thread)
        self._process._go_on(thread, "timed out")

    def get_nowait(self) -> Any:
        if not self._items:
            raise self._empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)
