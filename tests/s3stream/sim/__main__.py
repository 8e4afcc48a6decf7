"""Days of the storage in virtual time, by hand; exit code 1 if a promise was not kept.

python -m tests.s3stream.sim --hours 24 --seed 1 --runs 3
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.s3stream.sim.day import run_day


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0, help="of virtual time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1, help="so many, with seeds that count up")
    arguments = parser.parse_args()
    failed = 0
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        began = time.monotonic()
        print(f"seed {seed}: {arguments.hours:g} h", flush=True)
        try:
            day = run_day(seed, arguments.hours, lambda line: print(f"  {line}", flush=True))
        except Exception:
            traceback.print_exc()
            failed += 1
            continue
        for name, count in sorted(day.counts.items()):
            print(f"  {name}: {count}")
        print(f"seed {seed}: kept, in {time.monotonic() - began:.1f} s; {day.bounds.line()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
