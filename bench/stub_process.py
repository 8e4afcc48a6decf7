"""A broker that acknowledges without storing: the ceiling of what a client can be served at by one Python event loop.

    python -m bench.stub_process [PORT]

It decodes requests and encodes responses as tailrace does, and keeps nothing: no checks, no log, no disk. Topics come
into being as they are asked for, with four partitions each, all led here.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast
from uuid import NAMESPACE_DNS, uuid5

from bench.free_ports import free_port
from bench.process_stats import MeasuredProcess
from broker.server.receiver import CHUNK_SIZE, Receiver
from protocol.api_keys import ApiKey
from protocol.codec import decode_request, encode_response
from protocol.messages.api_versions import ApiVersion, ApiVersionsResponse
from protocol.messages.init_producer_id import InitProducerIdResponse
from protocol.messages.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from protocol.messages.produce import PartitionProduceResponse, ProduceResponse, TopicProduceResponse
from protocol.types import Buffer

HOST = "127.0.0.1"
PARTITIONS = 4
NODE_ID = 1
VERSIONS = {
    ApiKey.PRODUCE: (3, 12),
    ApiKey.METADATA: (0, 12),
    ApiKey.API_VERSIONS: (0, 4),
    ApiKey.INIT_PRODUCER_ID: (0, 4),
}
"""By topic name, not id."""
FRAME_SIZE_MAX = 100 << 20


class Stub:
    """`offsets` counts batches by (topic, partition), which stands for record offsets."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._offsets: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.chunk = bytearray(CHUNK_SIZE)

    async def serve(self) -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), HOST, self._port)
        print("ready", flush=True)
        await server.serve_forever()

    def answer(self, frame: bytearray) -> Iterable[Buffer]:
        header, request = decode_request(memoryview(frame))
        response: Any
        if header.api_key == ApiKey.PRODUCE:
            response = self._produce(request)
            if request.acks == 0:
                return ()
        elif header.api_key == ApiKey.METADATA:
            response = self._metadata([topic.name for topic in request.topics or ()])
        elif header.api_key == ApiKey.INIT_PRODUCER_ID:
            response = InitProducerIdResponse(producer_id=1, producer_epoch=0)
        else:
            response = ApiVersionsResponse(
                api_keys=[
                    ApiVersion(api_key=each, min_version=least, max_version=most)
                    for each, (least, most) in VERSIONS.items()
                ]
            )
        return encode_response(header.api_key, header.api_version, header.correlation_id, response)

    def _produce(self, request: Any) -> ProduceResponse:
        answers = []
        for topic in request.topic_data:
            parts = []
            for data in topic.partition_data:
                place = topic.name, data.index
                parts.append(PartitionProduceResponse(index=data.index, base_offset=self._offsets[place]))
                self._offsets[place] += 1
            answers.append(TopicProduceResponse(name=topic.name, partition_responses=parts))
        return ProduceResponse(responses=answers)

    def _metadata(self, names: list[str]) -> MetadataResponse:
        nodes = [NODE_ID]
        return MetadataResponse(
            brokers=[MetadataResponseBroker(node_id=NODE_ID, host=HOST, port=self._port)],
            cluster_id="stub",
            controller_id=NODE_ID,
            topics=[
                MetadataResponseTopic(
                    name=name,
                    topic_id=uuid5(NAMESPACE_DNS, name).bytes,
                    partitions=[
                        MetadataResponsePartition(
                            partition_index=i, leader_id=NODE_ID, leader_epoch=0, replica_nodes=nodes, isr_nodes=nodes
                        )
                        for i in range(PARTITIONS)
                    ],
                )
                for name in names
            ],
        )


class _Connection(asyncio.BufferedProtocol):
    """Receives as the broker does."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._receiver = Receiver(stub.chunk, FRAME_SIZE_MAX)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._receiver.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._receiver.received(nbytes)
        while (frame := self._receiver.next_frame()) is not None:
            self._transport.writelines(self._stub.answer(frame))


class StubProcess(MeasuredProcess):
    """The stub as a process of its own, for as long as the context is open."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> StubProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.stub_process", str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the stub does not start")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


def main() -> None:
    import uvloop

    uvloop.run(Stub(int(sys.argv[1]) if len(sys.argv) > 1 else 9092).serve())


if __name__ == "__main__":
    main()
