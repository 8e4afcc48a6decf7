"""A store that fails by rule, for tests and drills: errors, delays, lost answers, storms, torn and stale reads.

Rules are data. A rule says which calls it concerns (operations, key pattern, window of time, probability) and what
becomes of them::

    put,get error p=0.3             nothing is done, StoreUnreachable
    * delay=2 p=0.5                 the call takes 2 s longer
    put lost p=0.05                 it is done, and StoreUnreachable all the same
    * storm=20 p=0.001              from then on every call fails, for 20 s: "503 Slow Down"
    * down from=30 for=60           nothing answers for 60 s, 30 s after the store was opened
    get torn p=0.01                 fewer bytes than there are
    get flipped p=0.01              one bit of the answer is another one
    list stale=10                   objects of the last 10 s are not listed
    put,get error key=^metadata/    by key: a regular expression that is searched for, without spaces

separated by `;` or lines; `#` begins a comment. All that apply to a call do, in order. Operations are put (both kinds),
get (whole and ranges), head, delete, list.

A broker gets such a store by `--objects 'faulty+file:///directory?faults=RULES&seed=7'` (any other scheme likewise;
`faults=@/path` names a file that is read again when it changes). It says so at its start and every minute.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from s3stream.objectstore.api import ObjectMeta, ObjectStore, StoreAddressInvalid, StoreUnreachable
from wal.api import Buffer

T = TypeVar("T")

log = structlog.get_logger()

OPERATIONS = ("put", "get", "head", "delete", "list")
EFFECTS = ("error", "lost", "down", "delay", "storm", "torn", "flipped", "stale")
_WITH_SECONDS = ("delay", "storm", "stale")
_NUMBERS = {"p": "probability", "from": "after_s", "for": "duration_s"}
_READ_AGAIN_S = 0.2
WARN_INTERVAL_S = 60.0
_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class FaultRule:
    """`seconds` is what delay, storm and stale take; the window is counted from when the rules were set."""

    operations: frozenset[str]
    effect: str
    seconds: float = 0.0
    probability: float = 1.0
    key: re.Pattern[str] | None = None
    after_s: float = 0.0
    duration_s: float = _FOREVER

    def concerns(self, operation: str, key: str, age_s: float) -> bool:
        return (
            operation in self.operations
            and self.after_s <= age_s < self.after_s + self.duration_s
            and (self.key is None or self.key.search(key) is not None)
        )


def parse_rules(text: str) -> tuple[FaultRule, ...]:
    """Raises ValueError that names the rule."""
    rules = []
    for line in re.split(r"[;\n]", text):
        words = line.partition("#")[0].split()
        if words:
            rules.append(_parse_rule(line.strip(), words))
    return tuple(rules)


def _parse_rule(line: str, words: Sequence[str]) -> FaultRule:
    if len(words) < 2:
        raise ValueError(f"{line!r} is not OPERATIONS EFFECT [p=N] [from=S] [for=S] [key=REGEX]")
    operations = frozenset(OPERATIONS if words[0] == "*" else words[0].split(","))
    effect, _, seconds = words[1].partition("=")
    if not operations <= set(OPERATIONS):
        raise ValueError(f"{line!r}: operations are {', '.join(OPERATIONS)} or *")
    if effect not in EFFECTS or bool(seconds) != (effect in _WITH_SECONDS):
        raise ValueError(f"{line!r}: effects are {', '.join(EFFECTS)}, with =SECONDS for {', '.join(_WITH_SECONDS)}")
    numbers: dict[str, float] = {}
    key: re.Pattern[str] | None = None
    for word in words[2:]:
        name, _, value = word.partition("=")
        try:
            if name == "key":
                key = re.compile(value)
            else:
                numbers[_NUMBERS[name]] = float(value)
        except (KeyError, ValueError, re.error):
            raise ValueError(f"{line!r}: {word!r} is not p=, from=, for= or key=") from None
    return FaultRule(operations, effect, float(seconds or 0), key=key, **numbers)


class FaultyStore:
    """`rules` may be replaced at any time by `set_rules`, which begins their windows. Deterministic by its `rng`."""

    def __init__(
        self,
        store: ObjectStore,
        rules: Sequence[FaultRule] = (),
        rng: random.Random | None = None,
        *,
        clock: Callable[[], float] | None = None,
        rules_file: str | None = None,
    ) -> None:
        self._store = store
        self._rng = rng or random.Random()
        self._clock = clock or asyncio.get_running_loop().time
        self._rules: tuple[FaultRule, ...] = ()
        self._since = 0.0
        self._storm_until = 0.0
        self._rules_file = rules_file
        self._file_stamp: object = None
        self._file_seen_at = -_FOREVER
        self._warned_at = -_FOREVER
        self.injected = 0
        """Faults so far."""
        self.set_rules(rules)

    def set_rules(self, rules: Sequence[FaultRule]) -> None:
        self._rules = tuple(rules)
        self._since = self._clock()
        self._storm_until = 0.0

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._around("put", key, lambda: self._store.put(key, pieces))

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._around("put", key, lambda: self._store.put_if_absent(key, pieces))

    async def get(self, key: str) -> Buffer:
        return self._damaged(key, await self._around("get", key, lambda: self._store.get(key)))

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        return self._damaged(key, await self._around("get", key, lambda: self._store.get_range(key, start, end)))

    async def head(self, key: str) -> int | None:
        return await self._around("head", key, lambda: self._store.head(key))

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._around("delete", keys[0] if keys else "", lambda: self._store.delete_many(keys))

    async def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        await self._around("list", prefix, _nothing)
        stale_s = max((rule.seconds for rule in self._due("list", prefix) if rule.effect == "stale"), default=0.0)
        metas = [meta async for meta in self._store.list(prefix)]
        newest = max((meta.modified for meta in metas), default=0)
        for meta in metas:
            if not stale_s or meta.modified <= newest - stale_s * 1000:
                yield meta

    async def close(self) -> None:
        await self._store.close()

    # -- faults ------------------------------------------------------------------------------------------------------

    async def _around(self, operation: str, key: str, call: Callable[[], Awaitable[T]]) -> T:
        self._look()
        lost = False
        for rule in self._due(operation, key):
            if rule.effect == "delay":
                self.injected += 1
                await asyncio.sleep(rule.seconds)
            elif rule.effect == "storm":
                self._storm_until = max(self._storm_until, self._clock() + rule.seconds)
            elif rule.effect in ("error", "down"):
                self.injected += 1
                raise StoreUnreachable(f"injected: {operation} {key} did not happen")
            elif rule.effect == "lost":
                lost = True
        if self._clock() < self._storm_until:
            self.injected += 1
            raise StoreUnreachable(f"injected: {operation} {key}: 503 Slow Down")
        result = await call()
        if lost:
            self.injected += 1
            raise StoreUnreachable(f"injected: the answer to {operation} {key} is lost")
        return result

    def _due(self, operation: str, key: str) -> Iterator[FaultRule]:
        age_s = self._clock() - self._since
        for rule in self._rules:
            if rule.concerns(operation, key, age_s) and (
                rule.probability >= 1.0 or self._rng.random() < rule.probability
            ):
                yield rule

    def _damaged(self, key: str, data: Buffer) -> Buffer:
        for rule in self._due("get", key):
            if rule.effect == "torn" and len(data):
                self.injected += 1
                data = memoryview(data)[: self._rng.randrange(len(data))]
            elif rule.effect == "flipped" and len(data):
                self.injected += 1
                flipped = bytearray(data)
                flipped[self._rng.randrange(len(flipped))] ^= 1 << self._rng.randrange(8)
                data = flipped
        return data

    def _look(self) -> None:
        """Warn, and take new rules from the file."""
        now = self._clock()
        if now - self._warned_at >= WARN_INTERVAL_S:
            self._warned_at = now
            log.warning("THE OBJECT STORE FAILS ON PURPOSE (faulty+ in its address)", faults=self.injected)
        if self._rules_file is None or now - self._file_seen_at < _READ_AGAIN_S:
            return
        self._file_seen_at = now
        try:
            stat = os.stat(self._rules_file)
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._file_stamp:
                with open(self._rules_file) as file:
                    self.set_rules(parse_rules(file.read()))
                self._file_stamp = stamp
        except FileNotFoundError:
            if self._file_stamp is not None:
                self.set_rules(())
            self._file_stamp = None
        except (OSError, ValueError) as error:
            log.warning("rules of faults are not taken", file=self._rules_file, error=str(error))


async def _nothing() -> None:
    return None


def faults_from_options(options: dict[str, str]) -> tuple[tuple[FaultRule, ...], str | None, random.Random]:
    """Take `faults` and `seed` out of an address's options: rules, or the file that has them. StoreAddressInvalid."""
    text = options.pop("faults", "")
    seed = options.pop("seed", None)
    rng = random.Random(int(seed)) if seed is not None and seed.isdigit() else random.Random()
    if text.startswith("@"):
        return (), text[1:], rng
    try:
        return parse_rules(text), None, rng
    except ValueError as error:
        raise StoreAddressInvalid(f"faults: {error}") from None
