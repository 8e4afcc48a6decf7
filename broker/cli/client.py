"""A small blocking Kafka client for the commands: one socket per broker, one request at a time.

The version of each request is the highest that both this package and the broker know.
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Any

from broker.cli.errors import CommandError
from broker.settings import Address, parse_address
from protocol.api_keys import ApiKey
from protocol.codec import decode_response, encode_request
from protocol.errors import ErrorCode, ProtocolError
from protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from protocol.messages.metadata import MetadataRequest, MetadataResponse
from protocol.private_keys import api_name, is_private

TIMEOUT_S = 35.0
CLIENT_ID = "tailrace-cli"
_RESPONSE_SIZE_MAX = 256 * 1024 * 1024
_size = struct.Struct(">i")


class Connection:
    """To one broker. Raises CommandError if it cannot be reached or does not speak Kafka's protocol."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._correlation_id = 0
        self._versions: dict[int, int] = {}
        try:
            self._socket = socket.create_connection(address, timeout=5.0)
        except OSError as error:
            raise CommandError(
                f"no broker reachable at {address} ({error.strerror or error}); is it running? (--bootstrap HOST:PORT)"
            ) from None
        self._socket.settimeout(TIMEOUT_S)
        answer: ApiVersionsResponse = self._exchange(ApiKey.API_VERSIONS, 0, ApiVersionsRequest())
        self._versions = {api.api_key: api.max_version for api in answer.api_keys}

    def send(self, request: Any, version_max: int) -> Any:
        """The response to `request`, a message of `protocol.messages`."""
        key = request.API_KEY
        if is_private(key):
            return self._send_private(request)
        served = self._versions.get(key)
        if served is None or served < request.VERSIONS[0]:
            raise CommandError(f"the broker at {self.address} does not serve {api_name(key)}")
        return self._exchange(key, min(served, request.VERSIONS[1], version_max), request)

    def _send_private(self, request: Any) -> Any:
        """ApiVersions does not list these: what is not tailrace closes the connection."""
        try:
            response = self._exchange(request.API_KEY, request.VERSIONS[1], request)
        except CommandError as error:
            raise CommandError(f"{error}; is it tailrace, of this version or a newer one?") from None
        if response.error_code == ErrorCode.UNSUPPORTED_VERSION:
            raise CommandError(f"the broker at {self.address} is of another version of tailrace")
        return response

    def close(self) -> None:
        self._socket.close()

    def _exchange(self, key: int, version: int, request: Any) -> Any:
        self._correlation_id += 1
        try:
            self._socket.sendall(encode_request(key, version, self._correlation_id, CLIENT_ID, request))
            size = _size.unpack(self._receive(4))[0]
            if not 4 <= size <= _RESPONSE_SIZE_MAX:
                raise CommandError(f"{self.address} is not a Kafka broker")
            correlation_id, response = decode_response(key, version, self._receive(size))
        except OSError as error:
            raise CommandError(f"the broker at {self.address} does not answer ({error.strerror or error})") from None
        except ProtocolError as error:
            raise CommandError(f"the broker at {self.address} sent what cannot be read: {error}") from None
        if correlation_id != self._correlation_id:
            raise CommandError(f"the broker at {self.address} answered another request")
        return response

    def _receive(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionError("connection closed")
            view = view[count:]
        return data


class Client:
    """The cluster as seen from one bootstrap address; connects to other brokers when a request needs them."""

    def __init__(self, bootstrap: str) -> None:
        try:
            self._bootstrap = parse_address(bootstrap)
        except ValueError as error:
            raise CommandError(f"--bootstrap: {bootstrap!r} {error}", exit_code=2) from None
        self._connections: dict[Address, Connection] = {}

    def send(self, request: Any, to: Address | None = None, version_max: int = 0x7FFF) -> Any:
        """Send to the bootstrap broker, or to the one at `to`."""
        address = to or self._bootstrap
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = Connection(address)
        return connection.send(request, version_max)

    def metadata(self, topics: list[str] | None) -> MetadataResponse:
        """Of these topics, or of all; does not create any."""
        from protocol.messages.metadata import MetadataRequestTopic

        request = MetadataRequest(
            topics=None if topics is None else [MetadataRequestTopic(name=name) for name in topics],
            allow_auto_topic_creation=False,
        )
        response: MetadataResponse = self.send(request)
        return response

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections.values():
            connection.close()


def check(error_code: int, what: str, message: str | None = None) -> None:
    """Raises CommandError for an error code."""
    if error_code:
        try:
            name = ErrorCode(error_code).name.lower().replace("_", " ")
        except ValueError:
            name = f"error {error_code}"
        raise CommandError(f"{what}: {message or name}")
