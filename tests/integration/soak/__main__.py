"""A soak by hand: exit code 1 if anything was not kept.

python -m tests.integration.soak --minutes 30
python -m tests.integration.soak --minutes 5 --metadata sqlite --objects local --brokers 1
"""

from __future__ import annotations

import argparse
import sys

from .run import Plan, Soak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--partitions", type=int, default=500)
    parser.add_argument("--rate", type=float, default=400.0, help="records a second")
    parser.add_argument("--brokers", type=int, default=2)
    parser.add_argument("--objects", choices=("s3", "local"), default="s3", help="S3 is SeaweedFS")
    parser.add_argument("--metadata", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the intervals of storage and faults")
    arguments = vars(parser.parse_args())
    seconds = arguments.pop("minutes") * 60
    breaches = Soak(Plan(seconds, **arguments), lambda line: print(line, flush=True)).run()
    for breach in breaches:
        print(f"NOT KEPT: {breach}")
    print("not kept" if breaches else "kept")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
