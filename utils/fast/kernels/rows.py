"""Numba kernels on rows of tables; their reference is `utils.fast.image_networks.sparse_rows`."""
from __future__ import annotations

import numpy as np
from numba import njit

_ROWS = "float32[:, ::1]"


@njit(f"void({_ROWS}, int64[:, ::1], {_ROWS}, {_ROWS})", nogil=True, cache=True)
def add_rows(table: np.ndarray, index: np.ndarray, weights: np.ndarray,
             values: np.ndarray) -> None:
    """Add weights[i, k] * values[i] to rows index[i, k] of a table (P, M); values (N, M)."""
    num_rows, num_each = index.shape
    for i in range(num_rows):
        for k in range(num_each):
            row, weight = index[i, k], weights[i, k]
            for column in range(table.shape[1]):
                table[row, column] += weight * values[i, column]


@njit(f"void({_ROWS}, int64[:, ::1], {_ROWS}, {_ROWS})", nogil=True, cache=True,
      fastmath={"reassoc", "contract"})
def row_products(table: np.ndarray, index: np.ndarray, values: np.ndarray,
                 found: np.ndarray) -> None:
    """Write <table[index[i, k]], values[i]> into (N, n); sums in any order."""
    num_rows, num_each = index.shape
    for i in range(num_rows):
        for k in range(num_each):
            total, row = np.float32(0), index[i, k]
            for column in range(table.shape[1]):
                total += table[row, column] * values[i, column]
            found[i, k] = total
