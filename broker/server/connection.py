"""One client connection: requests in, handlers called, responses out in order.

Requests are pipelined: each is decoded and handed to its handler as soon as it has arrived, whatever earlier ones wait
for. What cannot be answered at once gets a **slot** in a queue; a response leaves when every slot before it has left.

Invariants
----------
* Responses leave in the order of the requests. A slot is answered exactly once, or the connection closes.
* Reading is paused while any bit of `_paused` is set, and no request is dispatched then; frames that had arrived before
  are kept by the receiver.
* Every slot is settled when the connection is gone: its Deferred is cancelled, and its task too unless the API runs to
  its end regardless of the client (the task then belongs to the host, which awaits it when it stops).
* No reference cycle outlives a request: the links between slot, Deferred and connection are cut when it is answered.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, cast

import structlog

from broker.handlers.api_versions import unsupported_version_response
from broker.request import Refused, RequestContext
from broker.server.dispatch import AWAITABLE, DEFERRED, MESSAGE, NOTHING, Api, result_kind
from broker.server.limits import OWN_SHARE_SIZE, STALL_SIZE
from broker.server.receiver import Receiver
from broker.server.slot import Slot
from protocol.api_keys import ApiKey
from protocol.codec import decode_request, encode_response
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from broker.server.listener import Server
    from protocol.types import Buffer

log = structlog.get_logger()

REQUESTS_PER_TURN = 128
"""Requests dispatched before the loop gets to serve somebody else."""
JOIN_SIZE_MAX = 65_536
"""Responses up to this size in sum are joined for one write; above it the pieces go out as they are."""

# Why reading is paused: bits of Connection._paused.
IN_FLIGHT = 1
WRITING = 2
MEMORY = 4
PRESSURE = 8
TURN = 16
STOPPING = 32
CLOSING = 64

_read_prefix = Struct(">hhi").unpack_from


class Connection(asyncio.BufferedProtocol):
    """See the module docstring. Created by `Server`, which gives it services, table, limits and shared state."""

    __slots__ = (
        "_apis",
        "_fetch_memory",
        "_flush_scheduled",
        "_loop",
        "_memory",
        "_open_frame_charged",
        "_open_frame_seen",
        "_paused",
        "_receiver",
        "_server",
        "_services",
        "_slots",
        "_transport",
        "_unsent_charged",
        "active",
        "client_host",
        "closed",
        "connection_id",
        "idle_since",
        "is_producer",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._services = server.services
        self._apis = server.apis
        self._memory = server.memory
        self._fetch_memory = server.fetch_memory
        self._loop = server.loop
        self._receiver = Receiver(server.chunk, server.limits.socket_request_max_bytes)
        self._slots: deque[Slot] = deque()
        self._paused = 0
        self._flush_scheduled = False
        self._open_frame_charged = 0
        self._open_frame_seen = 0
        self._unsent_charged = 0
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.connection_id = 0
        self.client_host = ""
        self.closed = False
        self.is_producer = False
        self.active = True
        self.idle_since = 0.0

    # -- the transport's callbacks ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        peer = transport.get_extra_info("peername")
        self.client_host = str(peer[0]) if peer else ""
        transport.set_write_buffer_limits(high=self._server.limits.write_buffer_size_max)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.connection_id = self._server.connection_opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._receiver.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.active = True
        self._receiver.received(nbytes)
        self._serve()

    def pause_writing(self) -> None:
        self._charge_unsent(self._transport.get_write_buffer_size())
        self.pause(WRITING)

    def resume_writing(self) -> None:
        self._charge_unsent(0)
        self.resume(WRITING)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._charge_unsent(0)
        memory = self._memory
        memory.release(self._open_frame_charged)
        for slot in self._slots:
            memory.release(slot.size)
            self._fetch_memory.release(slot.reserved_size)
            deferred, slot.deferred = slot.deferred, None
            if deferred is not None:
                deferred.on_complete = None
                deferred.cancel()
            if slot.task is not None and slot.api.is_abandoned_with_client:
                slot.task.cancel()
        self._slots.clear()
        memory.frame_done(self)
        self._server.connection_closed(self)

    # -- requests in ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Dispatch every request that has arrived, as far as this connection may."""
        receiver = self._receiver
        frames_left = REQUESTS_PER_TURN
        out: list[Buffer] = []
        try:
            while not self._paused:
                frame = receiver.next_frame()
                if frame is None:
                    if receiver.in_frame:
                        self._charge_open_frame()
                    break
                if self._open_frame_charged:
                    self._open_frame_done()
                self._dispatch(frame, out)
                frames_left -= 1
                if not frames_left:
                    self.pause(TURN)
                    self._loop.call_soon(self.resume, TURN)
            else:
                receiver.keep()
        except (ProtocolError, Refused) as error:
            self._write(out)
            self.close(str(error))
            return
        if out:
            self._write(out)

    def _dispatch(self, frame: bytearray, out: list[Buffer]) -> None:
        """Handle one request. An answer that is there at once, and next in order, goes to `out`."""
        size = len(frame)
        if size < 8:
            raise Refused(f"request of {size} bytes has no header")
        api_key, version, correlation_id = _read_prefix(frame)
        api = self._apis.get(api_key)
        if api is None:
            raise Refused(f"unknown api key {api_key}")
        if not api.min_version <= version <= api.max_version:
            self._unsupported_version(api, version, correlation_id, out)
            return
        header, request = decode_request(memoryview(frame))
        context = RequestContext(
            api_key, version, correlation_id, header.client_id, self.connection_id, self.client_host
        )
        if api.is_produce:
            self._produces()
        try:
            result = api.handle(self._services, context, request)
            kind = result_kind(result)
            if kind == MESSAGE and not self._slots:
                pieces = encode_response(api_key, version, correlation_id, result)
                out += pieces
                if len(pieces) > 1:  # records: how much they are is for the transport to say
                    self._write(out)
                    out.clear()
                return
        except Refused:
            raise
        except Exception as error:
            self._write(out)
            out.clear()
            slot = self._new_slot(api, version, correlation_id, size)
            self.handler_failed(slot, error)
            return
        if kind == NOTHING:
            return
        slot = self._new_slot(api, version, correlation_id, size)
        if kind == DEFERRED:
            if result.done:
                slot.settle(result.response)
            else:
                slot.deferred = result
                result.on_complete = slot.deferred_completed
        elif kind == AWAITABLE:
            slot.reserved_size = context.reserved_size
            slot.task = self._server.start_task(slot.run(result))
        else:
            slot.settle(result)

    def _unsupported_version(self, api: Api, version: int, correlation_id: int, out: list[Buffer]) -> None:
        is_api_versions = api.key == ApiKey.API_VERSIONS
        response = unsupported_version_response() if is_api_versions else api.unsupported_version_response()
        if response is None:
            raise Refused(f"unsupported version {version} of {api.name}")
        if self._slots:
            self._new_slot(api, api.min_version, correlation_id, 0).settle(response)
        else:
            out += encode_response(api.key, api.min_version, correlation_id, response)

    def _new_slot(self, api: Api, version: int, correlation_id: int, size: int) -> Slot:
        slot = Slot(self, api, version, correlation_id, size)
        slots = self._slots
        slots.append(slot)
        memory = self._memory
        memory.charge(size)
        if len(slots) >= self._server.limits.in_flight_requests_max:
            self.pause(IN_FLIGHT)
        # what asks for little, one at a time, does not wait for those that hold the memory
        if (size > OWN_SHARE_SIZE or len(slots) > 1) and memory.must_wait(self, in_frame=False):
            self._wait_for_memory()
        return slot

    def _produces(self) -> None:
        self.is_producer = True
        if self._server.producers_paused:
            self.pause(PRESSURE)

    # -- memory of requests -----------------------------------------------------------------------------------------

    def _charge_open_frame(self) -> None:
        allocated = self._receiver.open_frame_size
        if allocated != self._open_frame_charged:
            self._memory.charge(allocated - self._open_frame_charged)
            self._open_frame_charged = allocated
            if self._memory.must_wait(self, in_frame=True):
                self._wait_for_memory()

    def _open_frame_done(self) -> None:
        self._memory.release(self._open_frame_charged)
        self._open_frame_charged = 0
        self._open_frame_seen = -STALL_SIZE  # the next one counts as moving
        self._memory.frame_done(self)

    def _wait_for_memory(self) -> None:
        if not self._paused & MEMORY:
            self.pause(MEMORY)
            self._memory.wait(self._memory_available)

    def _memory_available(self) -> None:
        if self._paused & MEMORY:
            in_frame = self._receiver.in_frame
            if not self.closed and self._memory.must_wait(self, in_frame):
                self._memory.wait(self._memory_available)
            else:
                self.resume(MEMORY)

    @property
    def stalled_request_size(self) -> int:
        """What the request that is being received holds of the memory, if hardly a byte of it came since `look`.

        Whether the client sends none or we read none makes no difference. Back-pressure of the storage does: 0 then.
        """
        if self._paused & PRESSURE or self._receiver.open_frame_received - self._open_frame_seen >= STALL_SIZE:
            return 0
        return self._open_frame_charged

    @property
    def stalled_response_size(self) -> int:
        """Bytes that the client did not take, if it took hardly any since `look`."""
        if self._unsent_charged and self._unsent_charged - self._transport.get_write_buffer_size() < STALL_SIZE:
            return self._unsent_charged
        return 0

    def look(self) -> None:
        """What `stalled_...` compare with from now on."""
        self._open_frame_seen = self._receiver.open_frame_received
        if self._unsent_charged:
            self._charge_unsent(self._transport.get_write_buffer_size())

    def _charge_unsent(self, size: int) -> None:
        self._fetch_memory.charge(size - self._unsent_charged)
        self._unsent_charged = size

    # -- responses out ----------------------------------------------------------------------------------------------

    def slot_settled(self, slot: Slot) -> None:
        """The response of `slot` is there (or will never be): send it with all others of this turn, if it is next."""
        slots = self._slots
        if slots and slots[0] is slot and not self._flush_scheduled and not self.closed:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def handler_failed(self, slot: Slot, error: Exception) -> None:
        """A handler raised what it should have mapped to an error code."""
        log.error(
            "request failed",
            api=slot.api.name,
            version=slot.version,
            connection=self.connection_id,
            client=self.client_host,
            exc_info=error,
        )
        response = slot.api.failure_response(slot.version)
        if response is None:
            self.close(f"{slot.api.name} failed")
        else:
            slot.settle(response)

    def _flush(self) -> None:
        """Write the responses that are next in order, until one is missing or the client does not keep up."""
        self._flush_scheduled = False
        if self.closed:
            return
        slots = self._slots
        out: list[Buffer] = []
        size = 0
        released = 0
        while slots and slots[0].done:
            if self._paused & WRITING:
                break
            slot = slots.popleft()
            released += slot.size
            self._fetch_memory.release(slot.reserved_size)
            if slot.response is not None:
                try:
                    pieces = encode_response(slot.api.key, slot.version, slot.correlation_id, slot.response)
                except Exception as error:
                    log.error("response cannot be encoded", api=slot.api.name, version=slot.version, exc_info=error)
                    self.close(f"{slot.api.name} failed")
                    break
                out += pieces
                size += sum(map(len, pieces))
                if size > JOIN_SIZE_MAX:
                    self._transport.writelines(out)
                    out = []
                    size = 0
        self.active = True
        if out:
            self._write(out)
        self._memory.release(released)
        if self._paused & IN_FLIGHT and len(slots) <= self._server.limits.in_flight_requests_max // 2:
            self.resume(IN_FLIGHT)
        if self._paused & STOPPING:
            self._server.check_drained()

    def _write(self, pieces: list[Buffer]) -> None:
        """Small responses are joined: one write, and nothing of theirs is pinned. Large pieces are not copied."""
        if not pieces or self._transport.is_closing():
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif sum(map(len, pieces)) <= JOIN_SIZE_MAX:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)

    # -- pausing, closing -------------------------------------------------------------------------------------------

    def pause(self, reason: int) -> None:
        if not self._paused and not self._transport.is_closing():
            self._transport.pause_reading()
        self._paused |= reason

    def resume(self, reason: int) -> None:
        if self._paused & reason:
            self._paused &= ~reason
            if not self._paused:
                self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._paused and not self.closed and not self._transport.is_closing():
            self._transport.resume_reading()
            self._serve()

    @property
    def is_waiting(self) -> bool:
        """Whether a request is in flight that a graceful stop waits for."""
        return any(not slot.api.is_long_poll or slot.done for slot in self._slots)

    @property
    def has_requests(self) -> bool:
        return bool(self._slots)

    @property
    def is_write_blocked(self) -> bool:
        return bool(self._paused & WRITING)

    def close(self, reason: str | None = None) -> None:
        """Send what has been written and close; `reason` is logged (rate-limited)."""
        if reason is not None and not self._transport.is_closing():
            self._server.report_closed(self, reason)
        self._paused |= CLOSING  # nothing that was sent behind it is dispatched
        self._transport.close()

    def abort(self) -> None:
        """Close without waiting for the client to take what has been written."""
        self._transport.abort()
