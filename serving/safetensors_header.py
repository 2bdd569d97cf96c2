"""The header of a safetensors file, read with limits and without loading a tensor."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from memory.types import Record

MAX_HEADER_BYTES = 64 * 2**20
ITEM_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}


class HeaderError(ValueError):
    """The file is not a well-formed safetensors file."""


class TensorInfo(Record):
    """One tensor of a safetensors file; offsets count from the start of the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, TensorInfo]:
    """Tensors by name, in file order. Every byte after the header belongs to exactly one tensor.

    Raises:
        HeaderError: names the file, what was expected and what was found.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        most = min(max_header_bytes, size - 8)
        if length > most:
            raise HeaderError(f"{path.name}: expected a header of at most {most} bytes, got {length}")
        text = file.read(length)
    try:
        raw = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"{path.name}: expected a JSON header, got {error}") from error
    if not isinstance(raw, dict):
        raise HeaderError(f"{path.name}: expected a JSON object as header, got {type(raw).__name__}")
    raw.pop("__metadata__", None)
    tensors = {name: _tensor(path.name, name, entry, 8 + length) for name, entry in raw.items()}
    _cover_all_bytes(path.name, tensors, 8 + length, size)
    return tensors


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that appears twice")
    return found


def _tensor(file: str, name: str, entry: object, data_start: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"{file}: tensor {name!r}: expected dtype, shape and data_offsets, got {str(entry)[:80]}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise HeaderError(f"{file}: tensor {name!r}: expected a known dtype, got {str(dtype)[:40]}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise HeaderError(f"{file}: tensor {name!r}: expected sizes and two offsets, got {str(entry)[:80]}")
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        raise HeaderError(f"{file}: tensor {name!r}: expected {shape} of {dtype} to fill its bytes, got {offsets}")
    return TensorInfo(dtype=dtype, shape=tuple(shape), begin=data_start + offsets[0], end=data_start + offsets[1])


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 8 and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _cover_all_bytes(file: str, tensors: dict[str, TensorInfo], start: int, size: int) -> None:
    position = start
    for info in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if info.begin != position:
            raise HeaderError(f"{file}: expected a tensor to begin at byte {position}, got {info.begin}")
        position = info.end
    if position != size:
        raise HeaderError(f"{file}: expected the tensors to end at byte {position}, got a file of {size} bytes")
