"""Vectors to neighbours: an exact index and an inverted one with 8-bit codes, both of FAISS, in RAM or mapped.

Nothing here knows what is true; `memory.generations` says which file may be opened. FAISS files carry no checksum and
a damaged one can crash the process, so a file is only ever opened after its bytes were verified.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from memory.embed import Vectors

Rows = NDArray[np.int64]
Kind = Literal["flat", "ivf_sq8"]

_MIN_ROWS_PER_LIST = 39
_MAX_LISTS = 4096


class Hits(NamedTuple):
    """Rows (n,) and their scores (n,), best first; scores of coded vectors are approximate."""

    rows: Rows
    scores: Vectors


class VectorIndex:
    """Inner-product search over unit vectors kept under integer ids.

    Not thread-safe: adding, removing and searching need mutual exclusion. An id must be added once.
    """

    def __init__(self, index: faiss.Index, *, mapped: bool = False) -> None:
        """Use `flat`, `trained` or `open`."""
        self._index = index
        self._mapped = mapped

    @staticmethod
    def flat(dim: int) -> VectorIndex:
        """An empty exact index."""
        return VectorIndex(faiss.IndexIDMap(faiss.IndexFlatIP(dim)))

    @staticmethod
    def trained(sample: Vectors, nlist: int, num_threads: int) -> VectorIndex:
        """An empty inverted index whose `nlist` centroids and code ranges were learnt from `sample` (n, dim)."""
        index = faiss.index_factory(sample.shape[1], f"IVF{nlist},SQ8", faiss.METRIC_INNER_PRODUCT)
        faiss.omp_set_num_threads(num_threads)
        index.train(np.ascontiguousarray(sample))
        return VectorIndex(index)

    @staticmethod
    def open(path: Path, *, mapped: bool) -> VectorIndex | None:
        """The index in a file whose bytes were verified; None when it is not one of ours, or cannot be read.

        `mapped` shares its pages with every process that maps it, and it can then only be searched.
        """
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        except RuntimeError:  # all that FAISS ever raises
            return None
        if not isinstance(index, (faiss.IndexIDMap, faiss.IndexIVFScalarQuantizer)):
            return None
        return VectorIndex(index, mapped=mapped)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    @property
    def kind(self) -> Kind:
        """'flat': exact."""
        return "ivf_sq8" if self.nlist else "flat"

    @property
    def nlist(self) -> int:
        """Number of inverted lists; 0 when flat."""
        return int(self._index.nlist) if isinstance(self._index, faiss.IndexIVFScalarQuantizer) else 0

    def add(self, rows: Rows, vectors: Vectors, num_threads: int = 1) -> None:
        """Add unit `vectors` (n, dim) under ids `rows` (n,)."""
        self._check_changeable()
        faiss.omp_set_num_threads(num_threads)
        self._index.add_with_ids(np.ascontiguousarray(vectors), rows)

    def remove(self, rows: Rows) -> int:
        """Remove the vectors with these ids; returns how many there were."""
        self._check_changeable()
        return int(self._index.remove_ids(faiss.IDSelectorBatch(rows)))

    def search(self, query: Vectors, limit: int, *, among: Rows | None = None, nprobe: int = 0) -> Hits:
        """At most `limit` rows nearest to `query` (dim,), of those in `among` (None: of all).

        `nprobe` is how many inverted lists are looked into, 0 for all of them; a flat index has none.
        """
        limit = min(limit, len(self) if among is None else len(among))
        if limit <= 0 or not len(self):
            return Hits(np.empty(0, np.int64), np.empty(0, np.float32))
        # One query gains nothing from OpenMP, and its waiting threads cost 20 ms on a busy machine. Per calling thread.
        faiss.omp_set_num_threads(1)
        scores, rows = self._index.search(query[np.newaxis], limit, params=self._parameters(among, nprobe))
        is_hit = rows[0] >= 0
        return Hits(rows[0][is_hit], scores[0][is_hit])

    def write(self, path: Path) -> None:
        """Write it to a new file. Raises OSError when the disk is full or `path` cannot be written."""
        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:
            raise OSError(f"{path}: expected to write a vector index, got {error}; free some space") from error

    def _parameters(self, among: Rows | None, nprobe: int) -> faiss.SearchParameters | None:
        chosen = None if among is None else faiss.IDSelectorBatch(among)
        if self.nlist:
            return faiss.SearchParametersIVF(nprobe=nprobe or self.nlist, sel=chosen)  # type: ignore[call-arg]
        return faiss.SearchParameters(sel=chosen) if chosen is not None else None  # type: ignore[call-arg]

    def _check_changeable(self) -> None:
        if self._mapped:  # FAISS would not refuse: it ends the process
            raise ValueError("expected an index in RAM, got a mapped one, which can only be searched; open it unmapped")


def nlist_for(num_vectors: int) -> int:
    """Number of inverted lists for so many vectors: about 4 sqrt(n), a power of two, and no list too thin to learn."""
    wanted = round(math.log2(4 * math.sqrt(max(1, num_vectors))))
    affordable = int(math.log2(max(1, num_vectors // _MIN_ROWS_PER_LIST)))
    return int(min(2 ** min(wanted, affordable), _MAX_LISTS))
