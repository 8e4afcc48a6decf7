"""The `tailrace` command: `serve`, and the commands that talk to a running broker.

Exit codes: 0 done, 1 it failed, 2 it was called wrongly. A user's mistake is one line on standard error that says what
to do. Modules are imported by the command that needs them: the start of `serve` has a time budget, and an idle broker
one of memory. So what is plainly `serve` with options goes past `broker.cli.commands`, whose parser costs 20 MB.
"""

from __future__ import annotations

import gc

gc.disable()  # importing makes many objects and no garbage: 0.18 s of 0.51; `serve` switches it on when it is ready

import sys  # noqa: E402

from broker.cli.errors import CommandError  # noqa: E402
from broker.cli.serving import plain_options, serve  # noqa: E402


def main() -> None:
    """The console script."""
    options = plain_options(sys.argv[1:])
    if options is None:
        from broker.cli.commands import run

        sys.exit(run())
    try:
        serve(options)
    except CommandError as error:
        print(f"tailrace: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
