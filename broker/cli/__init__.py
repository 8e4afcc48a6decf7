"""The `tailrace` command: `serve`, and the commands that talk to a running broker.

Exit codes: 0 done, 1 it failed, 2 it was called wrongly. A user's mistake is one line on standard error that says what
to do. Modules are imported by the command that needs them: the start of `serve` has a time budget.
"""

from __future__ import annotations

import gc

gc.disable()  # importing makes many objects and no garbage: 0.18 s of 0.51; `serve` switches it on when it is ready

import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, NoReturn  # noqa: E402

import typer  # noqa: E402

from broker.cli import groups, topics  # noqa: E402
from broker.cli.errors import CommandError  # noqa: E402

app = typer.Typer(
    name="tailrace",
    help="A Kafka-compatible broker with shared storage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(topics.app)
app.add_typer(groups.app)


def _option(metavar: str, text: str) -> typer.models.OptionInfo:
    """Values are parsed by `broker.settings`, which words the errors for flags, environment and file alike."""
    option: typer.models.OptionInfo = typer.Option(metavar=metavar, help=text, show_default=False)
    return option


@app.command()
def serve(
    config: Annotated[str | None, _option("FILE", "TOML file with settings.")] = None,
    node_id: Annotated[str | None, _option("N", "Id of this broker in its cluster. Default: 1.")] = None,
    listen: Annotated[
        str | None, _option("HOST:PORT", "Address to listen on; port 0 picks one. Default: 127.0.0.1:9092.")
    ] = None,
    advertised: Annotated[
        str | None, _option("HOST:PORT", "Address that clients are told. Default: the one listened on.")
    ] = None,
    data_dir: Annotated[str | None, _option("DIR", "Directory of this broker. Default: ./data.")] = None,
    objects: Annotated[
        str | None, _option("URL", "Object store: file://, s3://, gs://, az://, memory://. Default: in the data dir.")
    ] = None,
    metadata: Annotated[
        str | None, _option("URL", "Database: sqlite:///FILE, postgresql://... Default: SQLite in the data dir.")
    ] = None,
    wal: Annotated[str | None, _option("URL", "Write-ahead log: file://DIR. Default: in the data dir.")] = None,
    log_level: Annotated[str | None, _option("L", "debug, info, warning or error. Default: info.")] = None,
) -> None:
    """Run a broker until SIGTERM or SIGINT. The settings come from TAILRACE_... variables and the file, too."""
    from broker.settings import SettingsError, load_settings

    flags = {
        "node_id": node_id,
        "listen": listen,
        "advertised": advertised,
        "data_dir": data_dir,
        "objects": objects,
        "metadata": metadata,
        "wal": wal,
        "log_level": log_level,
    }
    try:
        settings = load_settings(flags, os.environ, Path(config) if config is not None else None)
    except SettingsError as error:
        raise CommandError(str(error), exit_code=2) from None

    from broker.app import run

    sys.exit(run(settings))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed_version

    print(f"tailrace {installed_version('tailrace')}")


def main() -> None:
    """The console script."""
    try:
        code = app(prog_name="tailrace", standalone_mode=False)
    except CommandError as error:
        _fail(str(error), error.exit_code)
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        usage = _usage_problem(error)
        if usage is None:
            raise
        _fail(usage, 2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str, exit_code: int) -> NoReturn:
    print(f"tailrace: {line}", file=sys.stderr)
    sys.exit(exit_code)


def _usage_problem(error: Exception) -> str | None:
    """What typer says of a wrong call, in one line. Its exceptions are not public: they are known by what they have.

    None: `error` is something else.
    """
    if not hasattr(error, "format_message"):
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "tailrace"
    if type(error).__name__ == "NoArgsIsHelpError":
        message = "a command is missing"
    else:
        message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message} (see {path} --help)"
