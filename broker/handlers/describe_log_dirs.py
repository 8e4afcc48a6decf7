"""DescribeLogDirs (35): the size of the partitions led here.

v1-v5. v2 is flexible, v3 adds a top-level error, v4 total and usable bytes, v5 is_cordoned. A null topic list asks for
all.

There is one log dir: the broker's write-ahead log. A partition's size is all that it retains, whether that is still in
the log or in objects already. Total and usable bytes are those of the volume of a local log, else -1.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from urllib.parse import unquote, urlsplit

from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.describe_log_dirs import (
    DescribableLogDirTopic,
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)

API_KEY = ApiKey.DESCRIBE_LOG_DIRS
MIN_VERSION = 1
MAX_VERSION = 5

_UNKNOWN = -1


def handle(services: Services, ctx: RequestContext, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse:
    sizes = _all_sizes(services) if request.topics is None else _sizes_of(services, request.topics)
    topics = [
        DescribeLogDirsTopic(
            name=name,
            partitions=[DescribeLogDirsPartition(partition_index=index, partition_size=size) for index, size in held],
        )
        for name, held in sizes.items()
    ]
    log_dir, total, usable = _volume(services)
    result = DescribeLogDirsResult(
        error_code=ErrorCode.NONE, log_dir=log_dir, topics=topics, total_bytes=total, usable_bytes=usable
    )
    return DescribeLogDirsResponse(throttle_time_ms=ctx.throttle_time_ms, results=[result])


_Sizes = dict[str, list[tuple[int, int]]]
"""Topic name -> (partition index, bytes)."""


def _all_sizes(services: Services) -> _Sizes:
    sizes: _Sizes = defaultdict(list)
    for partition in services.partitions.all():
        sizes[partition.topic].append((partition.index, partition.size))
    return sizes


def _sizes_of(services: Services, asked: list[DescribableLogDirTopic]) -> _Sizes:
    """What is not led here is left out."""
    sizes: _Sizes = defaultdict(list)
    for topic in asked:
        for index in topic.partitions:
            partition = services.partitions.get(topic.topic, index)
            if partition is not None:
                sizes[topic.topic].append((index, partition.size))
    return sizes


def _volume(services: Services) -> tuple[str, int, int]:
    """Log dir, total and usable bytes."""
    own = services.image.broker(services.node_id)
    wal = urlsplit(own.wal_url if own is not None else "")
    if wal.scheme != "file":
        # without query and user info, which may hold credentials
        return f"{wal.scheme}://{wal.hostname or ''}{wal.path}", _UNKNOWN, _UNKNOWN
    path = unquote(wal.path)
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return path, _UNKNOWN, _UNKNOWN
    return path, usage.total, usage.free
