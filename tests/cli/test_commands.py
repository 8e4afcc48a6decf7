"""The command line: what it says, and with which exit code."""

from __future__ import annotations

import inspect
import json
import struct
import subprocess
import sys
import tempfile

import pytest

from broker.cli import commands
from broker.cli.groups import parse_assignment
from broker.cli.output import show
from broker.cli.serving import OPTIONS, plain_options


def tailrace(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": "", **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["serve", "--listen", "nowhere"], 2, "--listen: 'nowhere' is not HOST:PORT"),
        (["serve", "--listen=nowhere"], 2, "--listen: 'nowhere' is not HOST:PORT"),
        (["serve", "--config", "/nonexistent.toml"], 2, "cannot read the config file"),
        (["topics", "list", "--bootstrap", "127.0.0.1:1"], 1, "no broker reachable at 127.0.0.1:1"),
        (["groups", "describe", "g", "--bootstrap", "x"], 2, "is not HOST:PORT"),
        (["fsck", "--data-dir", "/nonexistent"], 1, "there is no catalog at /nonexistent/catalog.db"),
        (["fsck", "--config", "/nonexistent.toml"], 2, "cannot read the config file"),
        (["fsck", "--objects", "nowhere"], 2, "--objects: 'nowhere' is not a URL"),
        (["rebuild-catalog", "--objects", "memory://x"], 1, "there is no copy of the metadata in memory://x"),
        (["storage", "--bootstrap", "127.0.0.1:1"], 1, "no broker reachable at 127.0.0.1:1"),
        (["storage", "--prices", "/nonexistent.toml"], 2, "--prices: /nonexistent.toml cannot be used"),
        (["topics", "create", "t", "--config", "novalue"], 2, "is not KEY=VALUE"),
        ([], 2, "a command is missing (see tailrace --help)"),
        (["topics"], 2, "a command is missing (see tailrace topics --help)"),
        (["topics", "bogus"], 2, "No such command 'bogus'"),
        (["serve", "--bogus"], 2, "No such option: --bogus"),
        (["serve", "--node-id"], 2, "'--node-id' requires an argument"),
        (["topics", "create"], 2, "Missing argument 'TOPIC'"),
        (["topics", "create", "t", "--partitions", "x"], 2, "Invalid value for '--partitions'"),
        (["topics", "list", "extra"], 2, "unexpected extra argument"),
        (["brokers"], 2, "a command is missing (see tailrace brokers --help)"),
        (["brokers", "drain"], 2, "Missing argument 'N'"),
        (["brokers", "drain", "x"], 2, "Invalid value for 'N'"),
        (["brokers", "drain", "2", "--bootstrap", "127.0.0.1:1"], 1, "no broker reachable at 127.0.0.1:1"),
        (["brokers", "plan", "--bootstrap", "x"], 2, "is not HOST:PORT"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(arguments: list[str], exit_code: int, words: str) -> None:
    result = tailrace(*arguments)
    assert result.returncode == exit_code
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_the_plain_way_to_serve_knows_every_option() -> None:
    assert set(OPTIONS) == set(inspect.signature(commands.serve).parameters)
    given = [text for name in OPTIONS for text in (f"--{name.replace('_', '-')}", name)]
    assert plain_options(["serve", *given]) == {name: name for name in OPTIONS}
    assert plain_options(["serve"]) == {}


@pytest.mark.parametrize(
    "arguments",
    [[], ["topics", "list"], ["serve", "--help"], ["serve", "x"], ["serve", "--wal"], ["serve", "--wa", "x"]],
)
def test_anything_else_goes_through_the_parser(arguments: list[str]) -> None:
    assert plain_options(arguments) is None


def test_a_broker_loads_nothing_that_only_other_commands_need() -> None:
    program = (
        "import sys; from broker.cli import main; sys.argv = ['tailrace', 'serve', '--metadata', 'mysql://x/y',"
        "'--data-dir', sys.argv[1], '--listen', '127.0.0.1:0']\n"
        "try: main()\n"
        "finally: print(*(n for n in ('typer', 'pydantic', 'rich', 'boto3', 'obstore') if sys.modules.get(n)))"
    )
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run([sys.executable, "-c", program, directory], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "mysql" in done.stderr
    assert done.stdout.strip() == ""


def test_version_prints_the_installed_version() -> None:
    result = tailrace("version")
    assert result.returncode == 0
    assert result.stdout.startswith("tailrace ")


def test_lists_are_tab_separated_in_a_pipe_and_json_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", 1, None, [1, 2]), ("b", 2, True, [])]
    show(("name", "count", "flag", "nodes"), rows, as_json=False)
    assert capsys.readouterr().out == "a\t1\t-\t1,2\nb\t2\ttrue\t\n"
    show(("name", "count", "flag", "nodes"), rows, as_json=True)
    assert json.loads(capsys.readouterr().out)[0] == {"name": "a", "count": 1, "flag": None, "nodes": [1, 2]}


def test_assignments_are_read_and_damaged_ones_are_empty() -> None:
    data = struct.pack(">hih2sii", 0, 1, 2, b"t1", 2, 0) + struct.pack(">i", 5) + struct.pack(">i", -1)
    assert parse_assignment(data) == [("t1", 0), ("t1", 5)]
    for end in range(16):
        assert parse_assignment(data[:end]) == []
