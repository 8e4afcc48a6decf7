"""`python -m tests.cluster_sim --seeds FROM-TO [--mutation NAME] [--minutes M] [--jobs N] [--trace]`

Runs histories and says what was found: violations by seed, what faults really happened, seeds per second. With
`--mutation` the product is broken on purpose, and the run ends with the first seed that notices. `--mutation all` does
that for every mutation. `--trace` prints everything that happens, the brokers' logs included. Exit code 1: a violation
without a mutation, or a mutation that nobody noticed.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context

from tests.cluster_sim.mutations import MUTATIONS, REDUNDANT
from tests.cluster_sim.world import Result, run_history


def main() -> int:
    arguments = _arguments()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # the order of sets is part of a history
        os.execve(
            sys.executable,
            [sys.executable, "-W", "ignore", "-m", "tests.cluster_sim", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    gc.freeze()
    if arguments.mutation is None:
        return _run(seeds, arguments.jobs, arguments.trace, arguments.minutes * 60)
    names = sorted(MUTATIONS) if arguments.mutation == "all" else [arguments.mutation]
    unnoticed = [name for name in names if not _notice(name, seeds, arguments.trace)]
    if unnoticed:
        print(f"not noticed: {', '.join(unnoticed)}")
    return 1 if unnoticed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster_sim", description=__doc__)
    parser.add_argument("--seeds", default="0-99", help="FROM-TO, both inclusive, or one")
    parser.add_argument("--mutation", choices=["all", *sorted(MUTATIONS)])
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further history after so long")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--trace", action="store_true")
    return parser.parse_args()


def _run(seeds: range, jobs: int, trace: bool, time_max_s: float) -> int:
    began = time.monotonic()
    counters: Counter[str] = Counter()
    occurred: Counter[str] = Counter()
    failed: list[int] = []
    count = events = 0
    virtual_s = 0.0
    for result in _results(seeds, jobs, trace):
        count += 1
        events += result.event_count
        virtual_s += result.virtual_s
        counters.update(result.counters)
        occurred.update(result.counters.keys())
        if result.violations:
            failed.append(result.seed)
            for violation in result.violations:
                print(f"seed {result.seed}: {violation.kind}: {violation.detail}", flush=True)
        if time.monotonic() - began > time_max_s:
            break
    taken = time.monotonic() - began
    print(f"{'what happened':50} {'times':>10} {'histories':>10}")
    for name, number in sorted(counters.items()):
        print(f"{name:50} {number:10} {occurred[name]:10}")
    print(f"{count} seeds, {virtual_s:.0f} s of virtual time, {events} events, {count / taken:.2f} seeds/s")
    print(f"violations in {len(failed)} of {count} seeds: {failed}")
    return 1 if failed else 0


def _results(seeds: range, jobs: int, trace: bool) -> Iterator[Result]:
    if jobs == 1:
        for seed in seeds:
            yield run_history(seed, prints=trace)
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_run_seed, seeds)


def _run_seed(seed: int) -> Result:
    result = run_history(seed)
    result.trace.clear()
    return result


def _notice(name: str, seeds: range, trace: bool) -> bool:
    mutation = MUTATIONS[name]
    for number, seed in enumerate(seeds, 1):
        result = mutation.run(seed, prints=trace)
        if result.violations and not mutation.run_whole(seed).violations:
            found = result.violations[0]
            print(
                f"{name:32} noticed by seed {seed} (history {number}): {found.kind}: {found.detail[:200]}", flush=True
            )
            return True
    guarded = f", guarded as well by: {REDUNDANT[name][0]}" if name in REDUNDANT else ""
    print(f"{name:32} not noticed by {len(seeds)} seeds{guarded}", flush=True)
    return name in REDUNDANT


if __name__ == "__main__":
    sys.exit(main())
