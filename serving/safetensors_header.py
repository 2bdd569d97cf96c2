"""The header of a safetensors file, read with limits and without loading a tensor."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from memory.types import Record

MAX_HEADER_BYTES = 64 * 2**20
MAX_TENSORS = 1_000_000
MAX_DIMENSIONS = 8
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


def read_header(
    path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES, max_tensors: int = MAX_TENSORS
) -> dict[str, TensorInfo]:
    """Tensors by name, in file order. Every byte after the header belongs to exactly one tensor.

    The limits hold before anything is parsed: a few MiB of brackets would become a hundred times that in memory.

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
    _refuse_runaway(path.name, text, max_tensors)
    try:
        raw = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"{path.name}: expected a JSON header, got {error}") from error
    if not isinstance(raw, dict):
        raise HeaderError(f"{path.name}: expected a JSON object as header, got {type(raw).__name__}")
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError(f"{path.name}: expected __metadata__ to hold text by name, got {str(metadata)[:80]}")
    tensors = {name: _tensor(path.name, name, entry, 8 + length) for name, entry in raw.items()}
    _cover_all_bytes(path.name, tensors, 8 + length, size)
    return tensors


def _refuse_runaway(file: str, text: bytes, max_tensors: int) -> None:
    """A tensor takes one brace and two brackets, and at most as many commas as its dimensions and four more."""
    num_containers, num_commas = text.count(b"{") + text.count(b"["), text.count(b",")
    if num_containers > 3 * max_tensors + 2 or num_commas > (MAX_DIMENSIONS + 4) * (max_tensors + 1):
        raise HeaderError(f"{file}: expected a header of at most {max_tensors} tensors, got {len(text)} bytes of more")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that appears twice")
    return found


def _tensor(file: str, name: str, entry: object, data_start: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(
            f"{file}: tensor {name[:120]!r}: expected dtype, shape and data_offsets, got {str(entry)[:80]}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise HeaderError(f"{file}: tensor {name[:120]!r}: expected a known dtype, got {str(dtype)[:40]}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise HeaderError(f"{file}: tensor {name[:120]!r}: expected sizes and two offsets, got {str(entry)[:80]}")
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        raise HeaderError(
            f"{file}: tensor {name[:120]!r}: expected {shape} of {dtype} to fill its bytes, got {offsets}"
        )
    return TensorInfo(dtype=dtype, shape=tuple(shape), begin=data_start + offsets[0], end=data_start + offsets[1])


def _are_sizes(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**48 for n in value)
    )


def _cover_all_bytes(file: str, tensors: dict[str, TensorInfo], start: int, size: int) -> None:
    position = start
    for info in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if info.begin != position:
            raise HeaderError(f"{file}: expected a tensor to begin at byte {position}, got {info.begin}")
        position = info.end
    if position != size:
        raise HeaderError(f"{file}: expected the tensors to end at byte {position}, got a file of {size} bytes")
