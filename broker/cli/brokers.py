"""`tailrace brokers`: list, plan, drain, undrain, forget."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli.errors import CommandError
from broker.cli.output import Json, show
from broker.cli.targets import DEFAULT_BOOTSTRAP, Bootstrap

if TYPE_CHECKING:
    from protocol.messages.describe_balance import BalancedBroker, DescribeBalanceResponse

app = typer.Typer(name="brokers", help="See what brokers do, empty one, remove one.", no_args_is_help=True)

NodeId = Annotated[int, typer.Argument(metavar="N", min=0, help="Id of the broker.")]

_BROKER_RESOURCE = 4
_SET, _DELETE = 0, 1
_POLL_INTERVAL_S = 0.5


@app.command("list")
def list_brokers(bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, json: Json = False) -> None:
    """List the brokers, their state and their load.

    State: active; draining, then drained when it leads nothing; stopping; stopped (on request, or recovered by others);
    unreachable (its lease runs still, but it does not answer); failed (its log waits to be recovered, see the logs).

    Bytes and requests are per second, over the last 15 s. CPU is in cores.
    """
    brokers = _picture(bootstrap).brokers
    columns = (
        "id",
        "address",
        "rack",
        "state",
        "partitions",
        *(("bytes_in", "bytes_out", "requests", "cpu") if json else ("in", "out", "requests", "cpu")),
    )
    show(columns, [_row(each, json) for each in brokers], json)


@app.command()
def plan(bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, json: Json = False) -> None:
    """Show what moves, what would move next, and why.

    It changes nothing.

    The broker with the smallest id moves partitions by itself: away from brokers that drain, then so that all lead
    about as many, then so that none has much more to do. Planned moves for the sake of load wait until the brokers have
    been uneven for a while.

    To stop it: kafka-configs --alter --entity-type brokers --entity-default
    --add-config auto.leader.rebalance.enable=false. Drains go on working then.
    """
    picture = _picture(bootstrap)
    rows = [
        (state, each.topic_name, each.partition_index, each.source_id, each.target_id, each.reason)
        for state, moves in (("moving", picture.moving), ("planned", picture.planned))
        for each in moves
    ]
    if not picture.enabled:
        print("balancing is off (auto.leader.rebalance.enable=false): only drains are carried out", file=sys.stderr)
    if rows or json:
        show(("state", "topic", "partition", "from", "to", "why"), rows, json)
    else:
        print("nothing moves, and nothing needs to")


@app.command()
def drain(
    node_id: NodeId,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it leads nothing.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait.")] = 300.0,
) -> None:
    """Have a broker give away all that it leads.

    Clients follow by themselves and see no error.

    It goes on running, is given nothing, and stays drained when it restarts, until `undrain`. Then it can be stopped
    and, if it is not to come back, forgotten. Interrupting this command does not end the drain.

    Exit code 1 if it still leads something after the timeout; the drain goes on.
    """
    picture = _picture(bootstrap)
    broker = _find(picture, node_id)
    if not any(each.state == "active" and each.node_id != node_id for each in picture.brokers):
        raise CommandError(f"no other broker is active: who is to lead what broker {node_id} leads?")
    _alter(bootstrap, node_id, _SET)
    if wait:
        _wait_until_drained(bootstrap, broker, timeout)
    else:
        print(f"broker {node_id} gives away its {_partitions(broker)}; `tailrace brokers list` shows how far it is")


@app.command()
def undrain(node_id: NodeId, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> None:
    """Let a drained broker lead again.

    It is given its share at once if it runs.
    """
    _find(_picture(bootstrap), node_id)
    _alter(bootstrap, node_id, _DELETE)
    print(f"broker {node_id} may lead again")


@app.command()
def forget(node_id: NodeId, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> None:
    """Remove a broker that has stopped for good.

    It is no longer listed, and its configs are removed. Should it start again, it is a new one.
    """
    from broker.cli.client import Client, check
    from protocol.messages.unregister_broker import UnregisterBrokerRequest

    with Client(bootstrap) as client:
        response = client.send(UnregisterBrokerRequest(broker_id=node_id))
    check(response.error_code, "not forgotten", response.error_message)
    print(f"broker {node_id} is forgotten")


def _row(broker: BalancedBroker, raw: bool) -> tuple[object, ...]:
    address = f"{broker.host}:{broker.port}"
    loads: tuple[object, ...] = (None,) * 4
    if broker.cpu >= 0 and raw:
        loads = tuple(round(each) for each in (broker.bytes_in, broker.bytes_out, broker.requests))
        loads = (*loads, round(broker.cpu, 3))
    elif broker.cpu >= 0:
        loads = (
            f"{broker.bytes_in / 1e6:.1f} MB/s",
            f"{broker.bytes_out / 1e6:.1f} MB/s",
            f"{broker.requests:.0f}/s",
            f"{broker.cpu:.2f}",
        )
    return broker.node_id, address, broker.rack, broker.state, broker.partition_count, *loads


def _picture(bootstrap: str) -> DescribeBalanceResponse:
    """As the broker sees it that balances; if that cannot be reached, as the one at `bootstrap` does."""
    from broker.cli.client import Client, check
    from broker.settings import Address
    from protocol.messages.describe_balance import DescribeBalanceRequest

    with Client(bootstrap) as client:
        metadata = client.metadata([])
        balancer = next((each for each in metadata.brokers if each.node_id == metadata.controller_id), None)
        try:
            response = client.send(
                DescribeBalanceRequest(), Address(balancer.host, balancer.port) if balancer is not None else None
            )
        except CommandError:
            response = client.send(DescribeBalanceRequest())
        check(response.error_code, "cannot ask for the brokers")
    found: DescribeBalanceResponse = response
    return found


def _find(picture: DescribeBalanceResponse, node_id: int) -> BalancedBroker:
    for each in picture.brokers:
        if each.node_id == node_id:
            return each
    raise CommandError(f"no broker {node_id}; `tailrace brokers list` shows what there is")


def _alter(bootstrap: str, node_id: int, operation: int) -> None:
    from broker.cli.client import Client, check
    from protocol.messages.incremental_alter_configs import (
        AlterableConfig,
        AlterConfigsResource,
        IncrementalAlterConfigsRequest,
    )
    from s3stream.catalog.api import DRAINING

    config = AlterableConfig(name=DRAINING, config_operation=operation, value="true" if operation == _SET else None)
    resource = AlterConfigsResource(resource_type=_BROKER_RESOURCE, resource_name=str(node_id), configs=[config])
    with Client(bootstrap) as client:
        result = client.send(IncrementalAlterConfigsRequest(resources=[resource])).responses[0]
    check(result.error_code, f"cannot change broker {node_id}", result.error_message)


def _wait_until_drained(bootstrap: str, broker: BalancedBroker, timeout_s: float) -> None:
    """Tells of every step. A bootstrap broker that cannot be asked for a moment is asked again."""
    deadline = time.monotonic() + timeout_s
    node_id = broker.node_id
    told: int | None = None
    while True:
        trouble = ""
        try:
            broker = _find(_picture(bootstrap), node_id)
        except CommandError as error:
            trouble = f" ({error})"
        if not trouble and not broker.partition_count:
            print(f"broker {node_id} leads nothing: it can be stopped")
            return
        if time.monotonic() >= deadline:
            raise CommandError(
                f"broker {node_id} still leads {_partitions(broker)} after {timeout_s:g} s{trouble}; it goes on, "
                f"`tailrace brokers plan` shows what moves"
            )
        if broker.partition_count != told:
            told = broker.partition_count
            print(f"broker {node_id}: {_partitions(broker)} left", flush=True)
        time.sleep(_POLL_INTERVAL_S)


def _partitions(broker: BalancedBroker) -> str:
    return f"{broker.partition_count} partition{'' if broker.partition_count == 1 else 's'}"
