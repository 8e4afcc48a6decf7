"""`tailrace brokers give-up`: an unclean takeover, when the write-ahead log of a broker is gone for good.

Works on the metadata database alone, so that it does not matter which brokers run. Without `--accept-loss` it only says
what would be lost. Exit codes: 0 done, or there is nothing to do; 1 refused, or not done yet; 2 called wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli import stores
from broker.cli.output import Json, show

if TYPE_CHECKING:
    from s3stream.catalog.api import Catalog, LostTail

_COLUMNS = ("node", "epoch", "topic", "partition", "lost_from_offset", "last_upload", "given_up")


def give_up(
    node: Annotated[int, typer.Argument(metavar="NODE", help="Id of the broker whose log is gone.")],
    config: stores.Config = None,
    data_dir: stores.DataDir = None,
    metadata: stores.Metadata = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Give up what is listed. It cannot be taken back.")
    ] = False,
    json: Json = False,
) -> None:
    """Give up what only the lost write-ahead log of a dead broker held, so that its partitions are led again.

    Lists the partitions with the offset from which on everything is lost: what was acknowledged after the last upload.
    Without --accept-loss nothing is changed. What was given up stays in the metadata, and is listed ever after.
    """
    settings = stores.settings_of(config, {"data_dir": data_dir, "metadata": metadata})
    stores.run(_give_up(settings.metadata_url, node, accept_loss, json))


async def _give_up(metadata_url: str, node: int, accept_loss: bool, as_json: bool) -> int:
    from s3stream.catalog import open_catalog

    catalog = await open_catalog(metadata_url, create=False)
    try:
        before = await catalog.given_up(node)
        lost = await catalog.lost_tails(node)
        if lost and accept_loss:
            await catalog.give_up(node)
            before, lost = await catalog.given_up(node), await catalog.lost_tails(node)
        show(_COLUMNS, [*(_row(tail, at_ms) for at_ms, tail in before), *(_row(tail, None) for tail in lost)], as_json)
        typer.echo(await _verdict(catalog, node, lost, bool(before)), err=True)
        return 1 if lost else 0
    finally:
        await catalog.close()


async def _verdict(catalog: Catalog, node: int, lost: Sequence[LostTail], gave_up: bool) -> str:
    if lost:
        return (
            f"tailrace: {len(lost)} partitions of broker {node} are offline. If its log can come back, bring it back: "
            "nothing is lost then. To give up what is listed, add --accept-loss"
        )
    if any(broker.node_id == node and broker.alive for broker in await catalog.brokers()):
        return f"tailrace: broker {node} is alive: nothing to give up"
    done = ", given up is what is listed" if gave_up else ""
    return f"tailrace: nothing of broker {node} waits for its log{done}"


def _row(tail: LostTail, given_up_ms: int | None) -> tuple[object, ...]:
    return (
        tail.node_id,
        tail.epoch,
        tail.topic,
        tail.partition,
        tail.start_offset,
        _time(tail.last_upload_ms),
        _time(given_up_ms),
    )


def _time(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
