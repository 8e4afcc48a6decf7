"""What a tool printed, without what differs from run to run: made-up ids, times, widths of columns, order of rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .tool_story import BASE_TIME, HANGING_PRODUCER

HIDDEN_COLUMNS = {
    "CurrentTransactionStartTimeMs",
    "Duration(min)",
    "LastTimestamp",
    "TransactionDurationMs",
    "TransactionStartTimeMs",
}


@dataclass
class Names:
    """Made-up ids -> names that are the same in every run."""

    producers: dict[str, str] = field(default_factory=lambda: {str(HANGING_PRODUCER): "<producer hanging>", "-1": "-1"})

    def learn(self, listed: str) -> None:
        """From what `kafka-transactions list` printed."""
        for line in listed.splitlines()[1:]:
            name, _, producer = line.split()[:3]
            self.producers[producer] = f"<producer {name}>"

    def text(self, text: str) -> str:
        text = re.sub(r"127\.0\.0\.1:\d+", "<broker>", text)
        text = re.sub(r"-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "-<uuid>", text)
        text = re.sub(r"(?<![\w.+/-])(?=[\w+/-]*[A-Z])[\w+/-]{22}(?![\w+/-])", "<id>", text)
        return re.sub(r"\b1[789]\d{11}\b", "<now>", text)

    def value(self, name: str, value: Any) -> Any:
        """A field of a formatter's JSON."""
        if isinstance(value, dict):
            return {key: self.value(key, each) for key, each in value.items()}
        if name == "transactionPartitions" and value:
            value = sorted(value, key=lambda each: str(each["topic"]))
        if isinstance(value, list):
            return [self.value(name, each) for each in value]
        if name.endswith("roducerId"):
            return self.producers.get(str(value), "<unknown producer>")
        return self.text(value) if isinstance(value, str) else "<now>" if _is_recent(value) else value


def _is_recent(value: Any) -> bool:
    return isinstance(value, int) and 1_700_001_000_000 < value < 2_000_000_000_000


def _table(text: str, names: Names) -> list[str]:
    """A tool's tab-separated table: the columns that differ from run to run by name."""
    lines = [[cell.strip() for cell in line.rstrip("\t").split("\t")] for line in text.splitlines() if line.strip()]
    if not lines:
        return []
    header = lines[0]
    rows = []
    for cells in lines[1:]:
        row = dict(zip(header, cells, strict=False))
        for column in HIDDEN_COLUMNS & row.keys():
            row[column] = "<time>" if row[column].isdigit() and int(row[column]) != BASE_TIME else row[column]
        if "ProducerId" in row:
            row["ProducerId"] = names.producers.get(row["ProducerId"], "<unknown producer>")
        if "TopicPartitions" in row:
            row["TopicPartitions"] = ",".join(sorted(row["TopicPartitions"].split(",")))
        rows.append(" | ".join(row.values()))
    return [" | ".join(header), *sorted(rows)]


def _features(text: str) -> list[str]:
    """Only those that a broker without Kafka's controllers has; the epoch counts changes of any feature."""
    found = [re.sub(r"\s+", " ", re.sub(r"Epoch: \d+", "", line)).strip() for line in text.splitlines()]
    return sorted(line for line in found if line.startswith(("Feature: group.", "Feature: transaction.")))


def _records(text: str, names: Names) -> list[str]:
    """A formatter's objects by key, those of one key in log order; without a console consumer's own group."""
    decoder, objects, position = json.JSONDecoder(), [], 0
    while position < len(text.rstrip()):
        found, position = decoder.raw_decode(text, position)
        objects.append(found)
        position += len(text[position:]) - len(text[position:].lstrip())
    ours = [each for each in objects if not str(each["key"]["data"].get("group")).startswith("console-consumer-")]
    kept = [names.value("", each) for each in ours]
    return [json.dumps(each) for each in sorted(kept, key=lambda each: str(each["key"]))]


def _plain(text: str, names: Names) -> list[str]:
    lines = [re.sub(r"\s+", " ", names.text(line)).strip() for line in text.splitlines()]
    return sorted(line for line in lines if line and not line.startswith("at "))


def readable(command: Sequence[str], answer: dict[str, Any], names: Names) -> list[str]:
    tool, told = command[0], answer["out"]
    if tool == "kafka-console-consumer":
        lines = _records(told, names)
    elif tool == "kafka-features":
        lines = _features(told)
    elif tool == "kafka-transactions":
        lines = _table(told, names)
    else:
        lines = _plain(told, names)
    errors = _plain(answer["err"], names) if tool != "kafka-console-consumer" else []
    return [f"exit {answer['code']}", *lines, *(f"! {line}" for line in errors)]
