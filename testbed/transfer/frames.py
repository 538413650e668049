"""The frames of the data plane, as protos/skyrack/v1/exchange.proto describes them: bytes to values and back."""

from __future__ import annotations

import struct
from typing import Any

from google.protobuf.message import DecodeError

from protos.skyrack.v1.exchange_pb2 import ChunkHeader
from testbed.errors import IntegrityError
from testbed.transfer.chunks import Chunk

METHOD = "/protos.skyrack.v1.ExchangeService/Exchange"

OFFER, DATA, GRANT, DURABLE, REFUSAL, PUSH, LATER = range(7)
_HEAD = struct.Struct("!BI")
_NUMBER = struct.Struct("!Q")
_SIZE = struct.Struct("!H")

LEAST_FRAME_BYTES = 32 << 10
"""Every message costs a guest about a millisecond: over the demo's 3.5 Mbit/s a frame of this size is 75 ms."""
FRAME_BYTES = 1 << 20
"""Payload of the largest frame: larger ones cost copies and memory and are not faster."""
FRAME_S = 0.05
"""A frame is this much of its link, between the two limits: a cut loses at most a frame of what arrived."""


def frame_bytes(rate_bps: float) -> int:
    """Payload of one data frame on a link of this rate."""
    return min(max(int(rate_bps / 8 * FRAME_S), LEAST_FRAME_BYTES), FRAME_BYTES)


def pack_offer(number: int, chunk: Chunk) -> bytes:
    """A chunk is announced."""
    return _HEAD.pack(OFFER, number) + _header(chunk)


def pack_push(number: int, chunk: Chunk) -> bytes:
    """A chunk is announced and there."""
    header = _header(chunk)
    return b"".join((_HEAD.pack(PUSH, number), _SIZE.pack(len(header)), header, chunk.payload))


def pack_data(number: int, offset: int, payload: memoryview) -> bytes:
    """Bytes of a chunk. The only copy that the sender makes."""
    return b"".join((_HEAD.pack(DATA, number), _NUMBER.pack(offset), payload))


def pack_number(kind: int, number: int, value: int) -> bytes:
    """GRANT or DURABLE."""
    return _HEAD.pack(kind, number) + _NUMBER.pack(value)


def pack_text(kind: int, number: int, text: str) -> bytes:
    """REFUSAL or LATER, and why."""
    return _HEAD.pack(kind, number) + text.encode()


def parse_head(frame: bytes) -> tuple[int, int]:
    """Kind and chunk number. IntegrityError for what is no frame."""
    try:
        kind, number = _HEAD.unpack_from(frame)
    except struct.error:
        raise IntegrityError(f"a frame of {len(frame)} bytes; the shortest has {_HEAD.size}") from None
    return kind, number


def parse_offer(frame: bytes) -> dict[str, Any]:
    """The chunk's header, as ``Chunk.header`` makes it."""
    return _parse_header(frame[_HEAD.size :])


def parse_push(frame: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and payload, the latter without a copy."""
    start = _HEAD.size + _SIZE.size
    (size,) = _unpack(_SIZE, frame)
    return _parse_header(frame[start : start + size]), memoryview(frame)[start + size :]


def parse_data(frame: bytes) -> tuple[int, memoryview]:
    """Offset and payload, the latter without a copy."""
    (offset,) = _unpack(_NUMBER, frame)
    return offset, memoryview(frame)[_HEAD.size + _NUMBER.size :]


def parse_number(frame: bytes) -> int:
    """Of GRANT or DURABLE."""
    (value,) = _unpack(_NUMBER, frame)
    return int(value)


def parse_text(frame: bytes) -> str:
    """Of REFUSAL or LATER."""
    return frame[_HEAD.size :].decode("utf-8", "replace")


def _unpack(layout: struct.Struct, frame: bytes) -> tuple[int, ...]:
    try:
        return layout.unpack_from(frame, _HEAD.size)
    except struct.error:
        raise IntegrityError(f"a frame of type {frame[0]} ends after {len(frame)} bytes") from None


def _header(chunk: Chunk) -> bytes:
    return ChunkHeader(
        id=str(chunk.id),
        count=chunk.count,
        route=chunk.route,
        keep=chunk.keep,
        size_bytes=len(chunk.payload),
        sha256=bytes.fromhex(chunk.sha256),
        contact_peer=chunk.contact_peer,
        contact_end_s=chunk.contact_end_s,
        priority=chunk.priority,
    ).SerializeToString()


def _parse_header(data: bytes) -> dict[str, Any]:
    try:
        header = ChunkHeader.FromString(data)
    except DecodeError:
        raise IntegrityError(f"a chunk header of {len(data)} bytes that is none") from None
    return {
        "id": header.id,
        "count": header.count,
        "route": list(header.route),
        "keep": header.keep,
        "size": header.size_bytes,
        "sha256": header.sha256.hex(),
        "contact_peer": header.contact_peer,
        "contact_end_s": header.contact_end_s,
        "priority": header.priority,
    }
