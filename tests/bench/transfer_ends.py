"""What the two processes of a transfer's benchmark run: a sender and a receiver of each kind.

Each gets where both are, a port, its credentials, and what to call once it listens; each returns its CPU seconds, and
the sender its wall seconds, for all chunks; connections are there before.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import resource
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any

CHUNK_BYTES = 1 << 20
LINK_DELAY_MS = 20.0
"""Of the shaped link."""


@dataclass(frozen=True)
class Ends:
    """Where the two processes are: namespaces to enter (or none), and the receiver's address."""

    namespaces: tuple[int, ...]
    address: str
    count: int
    rate_bps: float


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _context(credentials: Any, purpose: ssl.Purpose) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cadata=credentials.authority.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.NamedTemporaryFile() as file:
        file.write(credentials.key + credentials.certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _leave(chunk: bytearray) -> None:
    """Make nothing of what came."""


def _digest(chunk: bytearray) -> None:
    hashlib.sha256(chunk).hexdigest()


def _socket_receive(
    wrap: Callable[[socket.socket], socket.socket],
    ends: Ends,
    port: int,
    told: Any,
    take: Callable[[bytearray], None] = _leave,
) -> Any:
    with socket.create_server((ends.address, port)) as listener:
        told()
        connection, _ = listener.accept()
    connection = wrap(connection)
    connection.recv(1)
    begun_s = _cpu_s()
    buffer = bytearray(CHUNK_BYTES)
    for _ in range(ends.count):
        rest = memoryview(buffer)
        while rest:
            rest = rest[connection.recv_into(rest) :]
        take(buffer)
    connection.sendall(b".")
    return {"cpu_s": _cpu_s() - begun_s}


def _socket_send(wrap: Callable[[socket.socket], socket.socket], ends: Ends, port: int) -> Any:
    connection = wrap(socket.create_connection((ends.address, port)))
    connection.sendall(b".")
    chunks = [os.urandom(CHUNK_BYTES) for _ in range(8)]
    time.sleep(0.2)
    begun_s, cpu_s = time.perf_counter(), _cpu_s()
    for number in range(ends.count):
        connection.sendall(chunks[number % len(chunks)])
    connection.recv(1)
    return {"wall_s": time.perf_counter() - begun_s, "cpu_s": _cpu_s() - cpu_s}


def _tcp_send(ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    return _socket_send(lambda plain: plain, ends, port)


def _tcp_receive(take: Callable[[bytearray], None], ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    return _socket_receive(lambda plain: plain, ends, port, told, take)


def _tls_send(ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    context = _context(credentials, ssl.Purpose.SERVER_AUTH)
    return _socket_send(lambda plain: context.wrap_socket(plain, server_hostname="b"), ends, port)


def _tls_receive(take: Callable[[bytearray], None], ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    context = _context(credentials, ssl.Purpose.CLIENT_AUTH)
    return _socket_receive(lambda plain: context.wrap_socket(plain, server_side=True), ends, port, told, take)


def _dial_with_tls(address: str, port: int, credentials: Any) -> Any:
    from testbed import rpc

    rpc.DATA_PORT = port
    return rpc.data_channel(address, "b", credentials)


def _dial_in_the_clear(address: str, port: int, credentials: Any) -> Any:
    from grpc import aio

    from testbed import rpc

    return aio.insecure_channel(f"{address}:{port}", options=[*rpc.DATA_OPTIONS, *rpc.DATA_CHANNEL_OPTIONS])


def _bind_with_tls(server: Any, address: str, port: int, credentials: Any) -> None:
    from testbed import rpc

    rpc.bind(server, address, port, credentials)


def _bind_in_the_clear(server: Any, address: str, port: int, credentials: Any) -> None:
    server.add_insecure_port(f"{address}:{port}")


_Dial = Callable[[str, int, Any], Any]
_Bind = Callable[[Any, str, int, Any], None]


def _grpc_send(dial: _Dial, ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    return asyncio.run(_messages_send(dial, ends, port, credentials))


def _grpc_receive(bind: _Bind, ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    return asyncio.run(_messages_receive(bind, ends, port, credentials, told))


def _ours_send(dial: _Dial, ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    return asyncio.run(_stream_send(dial, ends, port, credentials))


def _ours_receive(bind: _Bind, ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    return asyncio.run(_stream_receive(bind, ends, port, credentials, told))


async def _messages_send(dial: _Dial, ends: Ends, port: int, credentials: Any) -> Any:
    channel = dial(ends.address, port, credentials)
    call = channel.stream_stream("/bench/Messages")()
    await call.initial_metadata()
    chunks = [os.urandom(CHUNK_BYTES) for _ in range(8)]
    await asyncio.sleep(0.2)
    begun_s, cpu_s = time.perf_counter(), _cpu_s()
    for number in range(ends.count):
        await call.write(chunks[number % len(chunks)])
    await call.read()
    result = {"wall_s": time.perf_counter() - begun_s, "cpu_s": _cpu_s() - cpu_s}
    await channel.close()
    return result


async def _messages_receive(bind: _Bind, ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    import grpc

    from testbed import rpc

    result: dict[str, float] = {}
    ended = asyncio.Event()

    async def take(messages: Any, context: Any) -> None:
        await context.send_initial_metadata(())
        begun_s = _cpu_s()
        for _ in range(ends.count):
            await context.read()
        result["cpu_s"] = _cpu_s() - begun_s
        ended.set()  # before the answer: its reader hangs up at once, and that cancels us
        await context.write(b".")

    server = rpc.data_server()
    method: Any = {"Messages": grpc.stream_stream_rpc_method_handler(take)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", method),))
    bind(server, ends.address, port, credentials)
    await server.start()
    told()
    await ended.wait()
    await asyncio.sleep(0.2)  # the answer leaves
    await server.stop(grace=0)
    return result


async def _stream_send(dial: _Dial, ends: Ends, port: int, credentials: Any) -> Any:
    from testbed.clock import KernelClock, monotonic_s
    from testbed.link.plan import LinkPlan, LinkState
    from testbed.transfer.chunks import split
    from testbed.transfer.connection import Connection
    from testbed.transfer.stream import CHUNKS_IN_FLIGHT, StreamTransport

    class Dialling(StreamTransport):
        """The product's, but for how it dials."""

        def _dial(self, peer: str) -> Connection:
            return Connection(dial(ends.address, port, credentials))

    clock = KernelClock()
    clock.start(monotonic_s())
    plan = LinkPlan("a", {"b": (LinkState(0.0, LINK_DELAY_MS, ends.rate_bps, 0.0, 64),)})
    transport = Dialling("a", plan, {"b": ends.address}, credentials, clock, lambda peer, why: None)
    await transport.open()
    # Hashing is the work of who cuts a tensor, and done before. Few payloads under many names need little memory.
    pieces = split(
        os.urandom(8 * CHUNK_BYTES), CHUNK_BYTES, run="r", round=0, phase="up", origin="a", tensor="embedding"
    )
    queue = (
        replace(piece, id=replace(piece.id, round=number), route=("b",))
        for number, piece in zip(range(ends.count), cycle(pieces), strict=False)
    )
    await asyncio.sleep(0.2)
    begun_s, cpu_s = time.perf_counter(), _cpu_s()

    async def work() -> None:
        for chunk in queue:
            await transport.deliver("b", chunk, not_before_s=0.0, until_s=math.inf)

    await asyncio.gather(*(work() for _ in range(CHUNKS_IN_FLIGHT)))
    result = {"wall_s": time.perf_counter() - begun_s, "cpu_s": _cpu_s() - cpu_s}
    await transport.close()
    return result


async def _stream_receive(bind: _Bind, ends: Ends, port: int, credentials: Any, told: Any) -> Any:
    from testbed import rpc
    from testbed.transfer.spool import Spool
    from testbed.transfer.stream import ExchangeServer

    arrived, ended, begun = 0, asyncio.Event(), [0.0]

    def accepted(peer: str, chunk: Any) -> None:
        nonlocal arrived
        begun[0] = begun[0] or _cpu_s()
        arrived += 1
        if arrived == ends.count:
            ended.set()

    server = rpc.data_server()
    server.add_generic_rpc_handlers((ExchangeServer("b", Spool("r", accepted)).handler(),))
    bind(server, ends.address, port, credentials)
    await server.start()
    told()
    await ended.wait()
    result = {"cpu_s": _cpu_s() - begun[0]}
    await asyncio.sleep(0.2)  # the last acknowledgement leaves
    await server.stop(grace=0)
    return result


PROGRAMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "tcp": (_tcp_send, partial(_tcp_receive, _leave)),
    "tcp+sha": (_tcp_send, partial(_tcp_receive, _digest)),
    "tls": (_tls_send, partial(_tls_receive, _leave)),
    "tls+sha": (_tls_send, partial(_tls_receive, _digest)),
    "grpc": (partial(_grpc_send, _dial_in_the_clear), partial(_grpc_receive, _bind_in_the_clear)),
    "grpc+tls": (partial(_grpc_send, _dial_with_tls), partial(_grpc_receive, _bind_with_tls)),
    "clear": (partial(_ours_send, _dial_in_the_clear), partial(_ours_receive, _bind_in_the_clear)),
    "stream": (partial(_ours_send, _dial_with_tls), partial(_ours_receive, _bind_with_tls)),
}
