"""The option that says which cluster a command talks to."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_BOOTSTRAP = "127.0.0.1:9092"
Bootstrap = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of a broker.")]
