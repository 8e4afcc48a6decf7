"""How lists are printed: a table on a terminal, tab-separated lines in a pipe, JSON where it is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(columns: Sequence[str], rows: Iterable[Sequence[object]], as_json: bool) -> None:
    """`columns` are the keys in JSON and the header of the table; a pipe gets values only. None prints as `-`."""
    if as_json:
        json.dump([dict(zip(columns, row, strict=True)) for row in rows], sys.stdout, indent=2)
        print()
    elif sys.stdout.isatty():
        _show_table(columns, rows)
    else:
        for row in rows:
            print("\t".join(_cell(value) for value in row))


def _show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " ").upper(), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console().print(table, markup=False)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
