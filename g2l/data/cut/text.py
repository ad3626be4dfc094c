"""Columns of text, one value per patch, without a Python object per patch."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

S = TypeVar("S", bound=np.generic)


def coded(names: Sequence[str], codes: NDArray[np.integer]) -> pa.DictionaryArray:
    """The column names[codes[i]] that holds every name once, as far as it occurs."""
    return pa.array(names, pa.string()).take(pa.array(codes)).dictionary_encode()


def joined(files: Sequence[str], file: NDArray[np.integer], inside: pa.StringArray) -> pa.StringArray:
    """The names files[file[i]]/inside[i]."""
    return pc.call_function(
        "binary_join_element_wise", [pa.array(files, pa.string()).take(pa.array(file)), inside, pa.scalar("/")]
    )


def first_known(*columns: pa.DictionaryArray | None) -> pa.DictionaryArray:
    """Row by row the first value that is no null; a column that is None is passed over."""
    given = [column.cast(pa.string()) for column in columns if column is not None]
    return pc.call_function("coalesce", given).dictionary_encode()


def places(values: pa.StringArray, among: pa.StringArray) -> NDArray[np.int64]:
    """Where each value first stands in `among`, -1 where it does not."""
    found = pc.call_function("index_in", [values], pc.SetLookupOptions(among))
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def stripped(column: pa.ChunkedArray) -> pa.StringArray:
    """Without white space at the ends; null where nothing is left."""
    text = pc.call_function("utf8_trim_whitespace", [column.combine_chunks()])
    return pc.call_function(
        "if_else", [pc.call_function("equal", [text, pa.scalar("")]), pa.scalar(None, pa.string()), text]
    )


def values(column: pa.DictionaryArray, of: NDArray[S]) -> NDArray[S]:
    """of[code] of every row; the last of `of` where the column has no value."""
    return of[pc.fill_null(column.indices, len(of) - 1).to_numpy(zero_copy_only=False)]


def shown(problems: Sequence[str], most: int = 8) -> str:
    """What is wrong, in one line."""
    return "; ".join(problems[:most]) + (f"; and {len(problems) - most} more" if problems[most:] else "")
