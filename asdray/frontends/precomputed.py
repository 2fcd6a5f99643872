"""The frontend without computation: embeddings of any model, read from a file that names clips."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asdray.regular import check_regular


def read(path: Path, clips: Sequence[str], what: str) -> NDArray[np.float32]:
    """The embeddings of ``clips``, in the order of ``clips``; the file may hold more clips.

    Args:
        path: a ``.parquet`` or ``.npz`` file, see `asdray.config.frontend.Precomputed`.
        what: a noun for the clips in error messages, such as ``test clips of dcase2023 fan``.

    Returns:
        ``(N, D) float32``.

    Raises:
        ValueError: the file is missing, has another format, lacks clips or repeats clips.
    """
    try:
        check_regular(path)
        keys, values = _parquet(path) if path.suffix == ".parquet" else _npz(path)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read embeddings from {path}: {' '.join(str(error).split())}") from None
    shapes_fit = values.ndim == 2 and values.shape[1] and keys.shape == values.shape[:1]
    if not shapes_fit or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} holds {len(keys)} clips, but embeddings of shape {values.shape} and type "
            f"{values.dtype}: 'embedding' must be numbers, one row per clip"
        )
    rows = {key: i for i, key in enumerate(keys.tolist())}
    if len(rows) < len(keys):
        first = next(key for i, key in enumerate(keys.tolist()) if rows[key] != i)
        raise ValueError(f"{path} holds {len(keys) - len(rows)} clips more than once, first {first}")
    if missing := [clip for clip in clips if clip not in rows]:
        raise ValueError(
            f"{path} lacks the embeddings of {len(missing)} of {len(clips)} {what}, first {missing[0]} "
            f"(it holds {len(keys)} clips, first {next(iter(rows), None)})"
        )
    return values[[rows[clip] for clip in clips]].astype(np.float32)


def _parquet(path: Path) -> tuple[NDArray, NDArray]:
    """Clip keys ``(N,)`` and embeddings ``(N, D)`` of a Parquet file; values are checked by `read`."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["clip", "embedding"], partitioning=None)
    if missing := {"clip", "embedding"} - set(table.column_names):
        raise ValueError(f"it has no column {' and no column '.join(sorted(missing))}")
    embedding = table["embedding"].combine_chunks()
    kind = embedding.type
    if not isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        raise ValueError(f"its column embedding is of type {kind}, not a list of numbers")
    lengths = set(pc.list_value_length(embedding).to_pylist()) if len(embedding) else {1}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(f"its embeddings have different lengths: {sorted(map(str, lengths))[:4]}")
    values = embedding.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(table["clip"].to_pylist(), dtype=object), values.reshape(len(embedding), lengths.pop())


def _npz(path: Path) -> tuple[NDArray, NDArray]:
    """Clip keys ``(N,)`` and embeddings ``(N, D)`` of a NumPy archive; values are checked by `read`."""
    try:
        with zipfile.ZipFile(path) as archive:  # NumPy alone takes files of other formats for arrays or bytes
            return _member(archive, "clip"), _member(archive, "embedding")
    # A damaged header makes NumPy's parser fail, or asks for more memory than there is.
    except (SyntaxError, tokenize.TokenError, MemoryError, OverflowError, RuntimeError, zlib.error) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def _member(archive: zipfile.ZipFile, name: str) -> NDArray:
    """An array of a NumPy archive."""
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
