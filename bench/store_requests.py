"""What tailrace asks of its object store, as `tailrace storage` tells it: requests by kind, and their price.

Prices are those of `tailrace storage`: Amazon S3 Standard in us-east-1, in dollars.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.cli.client import Client
from broker.cli.storage import Prices
from protocol.messages.describe_storage import DescribeStorageRequest, DescribeStorageResponse

_PRICES = Prices()


@dataclass(frozen=True, slots=True)
class StoreRequests:
    """Of one broker between two looks."""

    puts: int
    gets: int
    all: int
    price: float


class StoreMeter:
    """Counts from its making on."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._before = self._ask()

    def read(self) -> StoreRequests:
        before, after = self._before, self._ask()
        return StoreRequests(
            puts=after.put_count - before.put_count,
            gets=after.get_count - before.get_count,
            all=_count(after) - _count(before),
            price=_PRICES.of_requests(after) - _PRICES.of_requests(before),
        )

    def _ask(self) -> DescribeStorageResponse:
        with Client(self._address) as client:
            answer: DescribeStorageResponse = client.send(DescribeStorageRequest(topics=[]))
        return answer


def _count(answer: DescribeStorageResponse) -> int:
    return answer.put_count + answer.get_count + answer.head_count + answer.list_count + answer.delete_count
