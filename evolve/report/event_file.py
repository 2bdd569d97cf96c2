"""Scalars in TensorBoard's event format, without TensorBoard: protocol-buffer records with their check sums. Pure.

The format has not changed since 2015: each record is its length, the masked CRC-32C of the length, the bytes, and their
masked CRC-32C (tensorflow/core/lib/io/record_writer.h); the bytes are an `Event` (tensorflow/core/util/event.proto).
Only the fields that scalars need are written; the same numbers give the same file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

_VERSION = b"brain.Event:2"
_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8


class Scalar(NamedTuple):
    """One number."""

    tag: str
    step: int
    value: float


def event_file(scalars: Iterable[Scalar], at: float) -> bytes:
    """The whole file. `at`: Unix seconds that every number gets as its time."""
    start = b"\x09" + struct.pack("<d", at)
    events = [start + _field(3, _VERSION)]
    for one in scalars:
        value = _field(1, one.tag.encode()) + b"\x15" + struct.pack("<f", one.value)
        events.append(start + b"\x10" + _varint(one.step) + _field(5, _field(1, value)))
    return b"".join(_record(event) for event in events)


def crc32c(data: bytes) -> int:
    """CRC-32 with Castagnoli's polynomial (RFC 3720, B.4)."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    entries = []
    for number in range(256):
        crc = number
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        entries.append(crc)
    return tuple(entries)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _check(length) + data + _check(data)


def _check(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first. Raises ValueError below 0."""
    if value < 0:
        raise ValueError(f"expected a number of at least 0, got {value}")
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
