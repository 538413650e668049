"""The one door to gRPC set-up: channels, servers, TLS, deadlines, and which exception is which status.

Everything here is asyncio. Processes that fork must do so before they import this module (gRPC's threads do not
survive a fork).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc import aio

from testbed.errors import BoardError, SkyrackError
from testbed.pki import Credentials

MANAGEMENT_PORT = 7070
DATA_PORT = 7071
METRICS_PORT = 9464
"""The usual port of Prometheus exporters in the OpenTelemetry registry."""

CONTROL_DEADLINE_S = 60.0
"""Management calls never wait for a contact: whoever does not answer in a minute is gone."""
PREPARE_DEADLINE_S = 600.0
"""Loading weights on a board's SD card, a dozen nodes sharing one core."""

_CONTROL_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.enable_retries", 0),
]
DATA_OPTIONS = [
    # The largest frame carries 1 MiB of a chunk, and a header before it.
    ("grpc.max_receive_message_length", (1 << 20) + (64 << 10)),
    ("grpc.max_send_message_length", (1 << 20) + (64 << 10)),
    ("grpc.enable_retries", 0),
    # A channel of its own is a connection of its own: reopening by plan must not find an old one (research: 17.8 s
    # from link open to first byte with gRPC's defaults after a 40 s outage, 0.1 s when reopened).
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also how long a connection may take: its answers may wait behind half a megabyte of bulk at 3 Mbit/s.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Probing for the bandwidth-delay product means pings that queue behind the bulk of the other direction. The
    # largest product here is known and small: a window that never closes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    # Fewer, larger reads: in a guest a system call costs 10-14 us.
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.experimental.tcp_min_read_chunk_size", 64 << 10),
    ("grpc.experimental.tcp_max_read_chunk_size", 1 << 20),
]
"""Of both ends of a data connection."""

DATA_CHANNEL_OPTIONS = [
    # Once a day; but that there is one makes gRPC set TCP_USER_TIMEOUT to its deadline: what a contact's end left in a
    # socket's buffer is dropped 10 s into the gap, and does not go out first when the next contact starts.
    ("grpc.keepalive_time_ms", 86_400_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]
"""Of the end that dials, besides."""
_DATA_SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),
    # A connection that waits through a gap is not to be asked whether it is there (by default after two hours, and
    # closed when it does not answer): INT_MAX is never.
    ("grpc.keepalive_time_ms", 2**31 - 1),
    # One whose stream was ended, because its contact is over and nobody could say so, goes a minute later.
    ("grpc.max_connection_idle_ms", 60_000),
]

T = TypeVar("T")


def control_channel(address: str, name: str, credentials: Credentials) -> aio.Channel:
    """A channel to ``name``'s management port; the certificate must say that name."""
    return _channel(f"{address}:{MANAGEMENT_PORT}", name, credentials, _CONTROL_OPTIONS)


def data_channel(address: str, name: str, credentials: Credentials) -> aio.Channel:
    """A new connection to ``name``'s data port."""
    return _channel(f"{address}:{DATA_PORT}", name, credentials, [*DATA_OPTIONS, *DATA_CHANNEL_OPTIONS])


def control_server() -> aio.Server:
    """A server for commands; bind it with :func:`bind`."""
    return aio.server(options=[*_CONTROL_OPTIONS, ("grpc.so_reuseport", 0)])


def data_server() -> aio.Server:
    """A server for bulk bytes."""
    return aio.server(options=[*DATA_OPTIONS, *_DATA_SERVER_OPTIONS])


def bind(server: aio.Server, address: str, port: int, credentials: Credentials) -> None:
    """Listen with mutual TLS: clients must show a certificate of the same authority."""
    tls = grpc.ssl_server_credentials(
        [(credentials.key, credentials.certificate)], credentials.authority, require_client_auth=True
    )
    if server.add_secure_port(f"{address}:{port}", tls) != port:
        raise BoardError(f"cannot listen on {address}:{port}")


def peer_name(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Whose certificate the caller showed."""
    names = list(context.auth_context().get("x509_common_name", []))
    return names[0].decode() if names else ""


async def call(what: str, rpc: Callable[..., Awaitable[T]], request: Any, deadline_s: float = CONTROL_DEADLINE_S) -> T:
    """A unary call with a deadline; BoardError says who did not answer and why."""
    try:
        return await rpc(request, timeout=deadline_s, wait_for_ready=True)
    except aio.AioRpcError as error:
        raise BoardError(f"{what}: {error.code().name}: {error.details()}") from None


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    """End a call with the status of an exception of our tree; anything else is INTERNAL."""
    status = error.grpc_status if isinstance(error, SkyrackError) else "INTERNAL"
    await context.abort(grpc.StatusCode[status], f"{type(error).__name__}: {error}")


def _channel(target: str, name: str, credentials: Credentials, options: list[tuple[str, int]]) -> aio.Channel:
    tls = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate)
    return aio.secure_channel(target, tls, options=[*options, ("grpc.ssl_target_name_override", name)])
