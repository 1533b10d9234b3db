"""Weighted sums of a few rows of a table: products with a sparse matrix.

torch's `embedding_bag` reads each row once and writes each sum once, in a fifth of the time of a
dense product of the same matrix; its own backward pass is slow, so that it has another here.
"""
from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.fast.kernels.loading import loops_for
from utils.fast.threads import shares_of

CHUNK = 4096              # rows at once for the gradient of their weights


class Rows(NamedTuple):
    """A sparse matrix (N, P), row by row.

    Attributes:
        index: (N, n) int64, columns that are not 0; any where there are fewer than n.
        weights: (N, n), the values there.
    """

    index: Tensor
    weights: Tensor

    def repeated(self, count: int, num_columns: int) -> Rows:
        """The block-diagonal matrix of `count` such, each with P = num_columns."""
        if count == 1:
            return self
        starts = torch.arange(count, device=self.index.device) * num_columns
        index = self.index + starts[:, None, None]                     # (count, N, n)
        return Rows(index.flatten(0, 1), self.weights.repeat(count, 1))


def sparse_rows(matrix: Tensor) -> Rows:
    """A dense matrix (N, P) by the rows of what is not 0 in it."""
    most = max(int((matrix != 0).sum(1).max()), 1) if matrix.numel() else 1
    index = matrix.abs().topk(most, 1).indices.sort(1).values
    return Rows(index, matrix.gather(1, index))


def weighted_rows(table: Tensor, rows: Rows, transposed: Rows | None = None) -> Tensor:
    """Sums over k of weights[:, k] * table[index[:, k]].

    Args:
        table: (P, M).
        rows: (N, n) of each; the weights in the table's precision.
        transposed: the same matrix the other way round, (P, n'), with which its gradient is the
            same kind of sum; else it is scattered.
    Returns:
        (N, M), differentiable in the table and the weights; no second derivatives.
    Raises:
        RuntimeError: an index that is not in the table.
    """
    return _WeightedRows.apply(table, rows.weights, rows.index, transposed)


def _sums(table: Tensor, rows: Rows) -> Tensor:
    return F.embedding_bag(rows.index, table, per_sample_weights=rows.weights, mode="sum")


class _WeightedRows(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, table: Tensor, weights: Tensor, index: Tensor,
                transposed: Rows | None) -> Tensor:
        """Return the weighted sums of rows."""
        ctx.transposed, ctx.num_rows = transposed, len(table)
        kept = table if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(kept, weights, index)
        return _sums(table, Rows(index, weights))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        """Of the table by sums or additions; of the weights by products with its rows."""
        table, weights, index = ctx.saved_tensors
        of_table, of_weights = None, None
        if ctx.needs_input_grad[0] and ctx.transposed is not None:
            of_table = _sums(upstream.contiguous(), ctx.transposed)
        elif ctx.needs_input_grad[0]:
            of_table = upstream.new_zeros(ctx.num_rows, upstream.shape[1])
            add_rows(of_table, Rows(index, weights), upstream)
        if ctx.needs_input_grad[1]:
            of_weights = row_products(table, index, upstream)
        return of_table, of_weights, None, None


def add_rows(table: Tensor, rows: Rows, values: Tensor) -> None:
    """Add weights[i, k] * values[i] to rows index[i, k] of a table (P, M); values (N, M).

    In place, without gradient; the table is contiguous. Rows that do not exist are not noticed.
    """
    loops = loops_for(table, "rows")
    if loops is not None:
        arrays = (x.contiguous().numpy() for x in (rows.index, rows.weights, values))
        loops.add_rows(table.numpy(), *arrays)
        return
    parts = values[:, None] * rows.weights[..., None]                  # (N, n, M)
    table.index_add_(0, rows.index.flatten(), parts.flatten(0, 1))


def row_products(table: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """<table[index[i, k]], values[i]>: (N, n) of a table (P, M), index (N, n) and values (N, M).

    Without gradient. Rows that do not exist are not noticed.
    """
    loops = loops_for(table, "rows")
    table, index, values = (x.contiguous() for x in (table, index, values))
    found = values.new_empty(index.shape)

    def _work(share: list[slice]) -> None:
        for part in share:                             # in chunks, which stay in the cache
            own = index[part]
            if loops is not None:
                loops.row_products(table.numpy(), own.numpy(), values[part].numpy(),
                                   found[part].numpy())
                continue
            taken = table.index_select(0, own.flatten()).unflatten(0, own.shape)
            torch.bmm(taken, values[part, :, None], out=found[part, :, None])

    shares_of(index, _work, CHUNK)
    return found
