"""`tailrace storage`: what is stored, what was asked of the object store, and about what that costs."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli.errors import CommandError
from broker.cli.output import Json, show
from broker.cli.targets import DEFAULT_BOOTSTRAP, Bootstrap

if TYPE_CHECKING:
    from broker.cli.client import Client
    from protocol.messages.describe_storage import DescribeStorageResponse

MONTH_MS = 30 * 24 * 3_600_000
GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """In any currency; the defaults are S3 Standard in us-east-1, in dollars. Requests are per thousand."""

    storage_gb_month: float = 0.023
    put: float = 0.005
    list: float = 0.005
    get: float = 0.0004
    head: float = 0.0004
    delete: float = 0.0

    def of_requests(self, answer: DescribeStorageResponse) -> float:
        """Of all that there were."""
        return (
            answer.put_count * self.put
            + answer.list_count * self.list
            + answer.get_count * self.get
            + answer.head_count * self.head
            + answer.delete_count * self.delete
        ) / 1000


def load_prices(path: Path | None) -> Prices:
    """From a TOML file that names some of the fields. Raises CommandError."""
    if path is None:
        return Prices()
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"--prices: {path} cannot be used: {error}", exit_code=2) from None
    names = [each.name for each in fields(Prices)]
    for name, value in given.items():
        if name not in names or not isinstance(value, int | float):
            raise CommandError(f"--prices: {name} in {path} is none of {', '.join(names)} = NUMBER", exit_code=2)
    return Prices(**given)


def storage(
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help="Show the partitions of this topic.")] = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    topics: Annotated[bool, typer.Option("--topics", help="Show topics by size instead of brokers.")] = False,
    prices: Annotated[Path | None, typer.Option(metavar="FILE", help="Price table, a TOML file.")] = None,
    json: Json = False,
) -> None:
    """Show what is stored, requests to the object store, and what they cost about.

    By broker: requests since its start, bytes written and read, hits of the block cache in percent, bytes written per
    byte appended and how much of that is compaction's, what is not uploaded yet and how old it is, and the price of its
    requests if a month went on like this. The last line is the cluster, with its objects and the price of storing them.
    Brokers that do not answer are left out.
    """
    from broker.cli.client import Client

    table = load_prices(prices)
    with Client(bootstrap) as client:
        answers = _ask(client, None if topic is None else [topic])
        if topic is not None:
            _show_partitions(client, topic, answers, json)
        elif topics:
            _show_topics(answers, json)
        else:
            _show_brokers(answers, table, json)


def _ask(client: Client, topics: list[str] | None) -> list[DescribeStorageResponse]:
    from broker.settings import Address
    from protocol.messages.describe_storage import DescribeStorageRequest

    answers: list[DescribeStorageResponse] = []
    for broker in sorted(client.metadata([]).brokers, key=lambda each: each.node_id):
        request = DescribeStorageRequest(topics=topics, include_objects=not answers)
        try:
            answer = client.send(request, Address(broker.host, broker.port))
        except CommandError:
            continue
        if not answer.error_code:
            answers.append(answer)
    if not answers:
        raise CommandError("no broker says what it stores")
    return answers


def _show_brokers(answers: list[DescribeStorageResponse], prices: Prices, json: bool) -> None:
    columns = (
        *("broker", "objects", "object_bytes", "unneeded", "put", "get", "head", "list", "delete", "failed"),
        *("written_bytes", "read_bytes", "cache_hits", "written_per_appended", "rewritten_per_appended"),
        *("unuploaded_bytes", "unuploaded_ms", "month"),
    )
    rows = [_row(str(each.node_id), each, prices, None) for each in answers]
    rows.append(_row("all", _sum(answers), prices, sum(_per_month(each, prices) for each in answers)))
    show(columns, rows, json)


def _row(name: str, answer: DescribeStorageResponse, prices: Prices, requests_month: float | None) -> tuple[Any, ...]:
    """`requests_month` is given for the cluster, whose objects are counted."""
    asked = answer.cache_hit_count + answer.cache_miss_count
    is_all = requests_month is not None
    month = _per_month(answer, prices) if requests_month is None else requests_month
    if is_all:
        month += answer.object_size / GB * prices.storage_gb_month
    return (
        name,
        answer.object_count if is_all else None,
        answer.object_size if is_all else None,
        answer.unneeded_count if is_all else None,
        answer.put_count,
        answer.get_count,
        answer.head_count,
        answer.list_count,
        answer.delete_count,
        answer.failed_count,
        answer.put_size,
        answer.get_size,
        round(100 * answer.cache_hit_count / asked) if asked else None,
        round(answer.put_size / answer.appended_size, 2) if answer.appended_size else None,
        round(answer.compaction_written_size / answer.appended_size, 2) if answer.appended_size else None,
        answer.unuploaded_size,
        answer.unuploaded_age_ms,
        round(month, 2),
    )


def _per_month(answer: DescribeStorageResponse, prices: Prices) -> float:
    return prices.of_requests(answer) * MONTH_MS / max(answer.uptime_ms, 1)


def _sum(answers: list[DescribeStorageResponse]) -> DescribeStorageResponse:
    from protocol.messages.describe_storage import DescribeStorageResponse

    summed = DescribeStorageResponse(
        object_count=answers[0].object_count,
        object_size=answers[0].object_size,
        unneeded_count=answers[0].unneeded_count,
        unuploaded_age_ms=max(each.unuploaded_age_ms for each in answers),
    )
    for name in (
        *("put_count", "get_count", "head_count", "list_count", "delete_count", "failed_count", "put_size", "get_size"),
        *("appended_size", "cache_hit_count", "cache_miss_count", "compaction_read_size", "compaction_written_size"),
        "unuploaded_size",
    ):
        setattr(summed, name, sum(getattr(each, name) for each in answers))
    return summed


def _show_topics(answers: list[DescribeStorageResponse], json: bool) -> None:
    totals: dict[str, list[int]] = {}
    for answer in answers:
        for topic in answer.topics:
            total = totals.setdefault(topic.name, [0, 0, 0])
            for partition in topic.partitions:
                total[0] += partition.size
                total[1] += partition.object_count
                total[2] += partition.unuploaded_size
    rows = [(name, *total) for name, total in sorted(totals.items(), key=lambda each: -each[1][0])]
    show(("topic", "bytes", "ranges", "unuploaded_bytes"), rows, json)


def _show_partitions(client: Client, topic: str, answers: list[DescribeStorageResponse], json: bool) -> None:
    from broker.cli.client import check

    check(client.metadata([topic]).topics[0].error_code, f"cannot describe topic {topic}")
    rows = [
        (partition.partition_index, answer.node_id, partition.size, partition.object_count, partition.unuploaded_size)
        for answer in answers
        for found in answer.topics
        for partition in found.partitions
    ]
    show(("partition", "leader", "bytes", "ranges", "unuploaded_bytes"), sorted(rows), json)
