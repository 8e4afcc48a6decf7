"""`python -m broker.cli`."""

from __future__ import annotations

from broker.cli import main

main()
