"""`tailrace drill`: its list, and wrong calls."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drills.cli import app
from drills.scenarios import DRILLS

REPOSITORY = Path(__file__).parents[2]


def test_every_drill_says_what_it_promises_and_is_in_the_guide() -> None:
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)
    assert [row["name"] for row in listed] == list(DRILLS)
    assert all(row["promises"] and row["summary"] for row in listed)
    guide = (REPOSITORY / "docs" / "drills.md").read_text()
    assert [name for name in DRILLS if f"| `{name}` |" not in guide] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "is no drill"),
        (["leader-kill", "--wal", "paper"], "is not one of file, object"),
        (["leader-kill", "--bootstrap", "localhost:9092"], "needs a cluster of its own"),
        (["reassign", "--bootstrap", "nowhere"], "is not HOST:PORT"),
        (["slow-store"], "needs --objects s3"),
        (["reassign", "--held", "much"], "is not a size"),
        (["scale-out", "--times", "2"], "leaves the cluster changed"),
    ],
)
def test_a_wrong_call_is_told_with_exit_code_2(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["run", *arguments])
    assert result.exit_code == 2
    assert words in re.sub(r"[\s│]+", " ", result.output)


def test_variables_of_the_compose_file_and_the_image_are_settings() -> None:
    from broker.settings import load_settings

    for name in ("docker-compose.yml", "Dockerfile"):
        text = (REPOSITORY / name).read_text()
        found = dict(re.findall(r"^[ \\]*(?:ENV )?(TAILRACE_\w+)[:=] ?\"?([^\"\s\\]+)", text, re.MULTILINE))
        assert found
        settings = load_settings({}, found, None)
        for variable in found:
            assert hasattr(settings, variable.removeprefix("TAILRACE_").lower()), variable
