"""The commands and their help, by typer."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from broker.cli import brokers, fsck, groups, rebuild, serving, storage, topics, unclean
from broker.cli.errors import CommandError

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
brokers.app.command("give-up")(unclean.give_up)
app.add_typer(brokers.app)
app.command()(fsck.fsck)
app.command("rebuild-catalog")(rebuild.rebuild_catalog)
app.command()(storage.storage)


def _option(metavar: str, text: str) -> typer.models.OptionInfo:
    """Values are parsed by `broker.settings`, which words the errors for flags, environment and file alike."""
    option: typer.models.OptionInfo = typer.Option(metavar=metavar, help=text, show_default=False)
    return option


@app.command()
def serve(
    config: Annotated[str | None, _option("FILE", "TOML file with settings.")] = None,
    brokers: Annotated[
        str | None, _option("N", "How many brokers to run, one process each; ids and ports count up. Default: 1.")
    ] = None,
    node_id: Annotated[str | None, _option("N", "Id of this broker in its cluster. Default: 1.")] = None,
    listen: Annotated[
        str | None, _option("HOST:PORT", "Address to listen on; port 0 picks one. Default: 127.0.0.1:9092.")
    ] = None,
    advertised: Annotated[
        str | None, _option("HOST:PORT", "Address that clients are told. Default: the one listened on.")
    ] = None,
    rack: Annotated[str | None, _option("NAME", "Rack or availability zone of this broker. Default: none.")] = None,
    data_dir: Annotated[str | None, _option("DIR", "Directory of this broker. Default: ./data.")] = None,
    objects: Annotated[
        str | None, _option("URL", "Object store: file://, s3://, gs://, az://, memory://. Default: in the data dir.")
    ] = None,
    metadata: Annotated[
        str | None, _option("URL", "Database: sqlite:///FILE, postgresql://... Default: SQLite in the data dir.")
    ] = None,
    wal: Annotated[
        str | None, _option("URL", "Write-ahead log: file://, s3://, gs://, az://. Default: in the data dir.")
    ] = None,
    log_level: Annotated[str | None, _option("L", "debug, info, warning or error. Default: info.")] = None,
) -> None:
    """Run a broker, or several, until SIGTERM or SIGINT. TAILRACE_... variables and the file are read, too."""
    serving.serve(
        {
            "config": config,
            "brokers": brokers,
            "node_id": node_id,
            "listen": listen,
            "advertised": advertised,
            "rack": rack,
            "data_dir": data_dir,
            "objects": objects,
            "metadata": metadata,
            "wal": wal,
            "log_level": log_level,
        }
    )


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed_version

    print(f"tailrace {installed_version('tailrace')}")


def run() -> int:
    """Run the command of this process's arguments; returns its exit code.

    Packages that lie above the broker bring their commands themselves, as entry points.
    """
    for above in entry_points(group="tailrace.commands"):
        app.add_typer(above.load())
    try:
        code = app(prog_name="tailrace", standalone_mode=False)
    except CommandError as error:
        return _failed(str(error), error.exit_code)
    except typer.Abort:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        usage = _usage_problem(error)
        if usage is None:
            raise
        return _failed(usage, 2)
    return code if isinstance(code, int) else 0


def _failed(line: str, exit_code: int) -> int:
    print(f"tailrace: {line}", file=sys.stderr)
    return exit_code


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
