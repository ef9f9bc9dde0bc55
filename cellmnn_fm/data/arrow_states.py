"""Latent states of a data set in an Arrow file: written at once, and read where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pyarrow import Table


def in_place(table: Any, column: str) -> NDArray[np.float32]:
    """A column of a memory-mapped `table`, (cells, its length), which is not read yet."""
    (batch,) = table.column(column).chunks
    return batch.flatten().to_numpy(zero_copy_only=True).reshape(len(batch), -1)


def arrow_table(columns: dict[str, NDArray[np.float32]]) -> Table:
    """Each of `columns` (cells, n), by name, in an Arrow table, without a copy."""
    import pyarrow as pa

    return pa.table(
        {
            name: pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
            for name, values in columns.items()
        }
    )


def write_states(table: Table, file: Path) -> None:
    """One Arrow batch, so that all cells lie side by side and any can be read at once."""
    from datasets import Features
    from datasets.arrow_writer import ArrowWriter

    file.parent.mkdir(parents=True, exist_ok=True)
    features = Features.from_arrow_schema(table.schema)
    with ArrowWriter(path=str(file), features=features) as writer:
        writer.write_table(table, writer_batch_size=len(table))
        writer.finalize()
