"""Requests that were sent and are not carried out yet: kept back on purpose, or for a while by chance.

What is kept back is carried out in the end, whatever has become of who asked: it may have given up, asked again, been
replaced, or died.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.cluster_sim.kernel import Kernel, Process

if TYPE_CHECKING:
    from tests.cluster_sim.node import Node

GoOn = Callable[[], None]


class Hold:
    """Keeps back each of these requests of a broker, until `release`."""

    def __init__(self, holds: Holds, host: str, steps: tuple[str, ...]) -> None:
        self._holds = holds
        self.host = host
        self.steps = steps
        self.kept: list[tuple[str, GoOn]] = []

    def has(self, step: str) -> bool:
        return any(kept == step for kept, _ in self.kept)

    def release(self) -> None:
        """They are carried out in the order in which they came."""
        self._holds.end(self)
        for _, go_on in self.kept:
            go_on()
        self.kept.clear()


class Holds:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._holds: list[Hold] = []
        self._delays: dict[tuple[str, str], tuple[float, Callable[[], None]]] = {}

    def hold(self, node: Node, *steps: str) -> Hold:
        hold = Hold(self, node.host, steps)
        self._holds.append(hold)
        return hold

    def delay_next(self, node: Node, step: str, delay_s: float, happened: Callable[[], None]) -> None:
        """The next one of this kind is carried out so much later."""
        self._delays[node.host, step] = delay_s, happened

    def end(self, hold: Hold) -> None:
        if hold in self._holds:
            self._holds.remove(hold)

    def release_all(self) -> None:
        """What is delayed already comes when it comes."""
        self._delays.clear()
        for hold in list(self._holds):
            hold.release()

    def on_request(self, process: Process, step: str, go_on: GoOn) -> bool:
        """Whether the request stays here; `go_on` is called when it is to be carried out then."""
        for hold in self._holds:
            if hold.host == process.host and step in hold.steps:
                hold.kept.append((step, go_on))
                return True
        if (delay := self._delays.pop((process.host, step), None)) is not None:
            delay[1]()
            self._kernel.after(delay[0], go_on)
            return True
        return False
