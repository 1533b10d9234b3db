"""Sums of rows against products with the dense matrix."""
from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from utils.fast.image_networks import sparse_rows as row_sums
from utils.fast.image_networks.sparse_rows import (
    Rows,
    add_rows,
    row_products,
    sparse_rows,
    weighted_rows,
)


def sparse_matrix(num_rows=7, num_columns=5, seed=0):
    """A third of it is not 0; one row and one column are empty."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(num_rows, num_columns, generator=generator, dtype=torch.float64)
    matrix[torch.rand(matrix.shape, generator=generator) > 0.4] = 0
    matrix[2], matrix[:, 3] = 0, 0
    return matrix


def test_rows_are_those_of_the_matrix():
    matrix = sparse_matrix()
    rows = sparse_rows(matrix)
    assert rows.index.shape[1] == int((matrix != 0).sum(1).max()) < matrix.shape[1]
    dense = torch.zeros_like(matrix).scatter_add_(1, rows.index, rows.weights)
    assert torch.equal(dense, matrix)


@pytest.mark.parametrize("has_transposed", [False, True])
def test_sums_and_their_gradient_are_the_dense_product(has_transposed):
    matrix = sparse_matrix()
    rows, transposed = sparse_rows(matrix), sparse_rows(matrix.T) if has_transposed else None
    table = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    found, upstream = weighted_rows(table, rows, transposed), torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(found, matrix @ table)
    (grad,) = torch.autograd.grad(found, table, upstream)
    torch.testing.assert_close(grad, matrix.T @ upstream)


def test_gradients_in_table_and_weights():
    rows = sparse_rows(sparse_matrix())
    table = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weights = rows.weights.clone().requires_grad_(True)
    assert gradcheck(lambda table, weights: weighted_rows(table, Rows(rows.index, weights)),
                     (table, weights))


def test_repeated_is_block_diagonal():
    matrix = sparse_matrix()
    table = torch.randn(3, 5, 2, dtype=torch.float64)
    found = weighted_rows(table.reshape(-1, 2), sparse_rows(matrix).repeated(3, 5))
    torch.testing.assert_close(found.reshape(3, 7, 2), matrix @ table)


def test_bf16_sums_are_rounded_once():
    """A rounding to 8 binary digits errs by 2^-8 at most; after each term, it would be more."""
    matrix, table = sparse_matrix().bfloat16(), torch.randn(5, 64).bfloat16()
    found = weighted_rows(table, sparse_rows(matrix))
    exact = matrix.double() @ table.double()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2.0 ** -8, atol=1e-5)


def test_no_rows_and_a_row_that_does_not_exist():
    table = torch.randn(5, 3, requires_grad=True)
    none = weighted_rows(table, Rows(torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, 4)))
    assert none.shape == (0, 3)
    assert not torch.autograd.grad(none.sum(), table)[0].any()
    for index in (5, -1):
        with pytest.raises(RuntimeError, match="idx|range"):
            weighted_rows(table, Rows(torch.tensor([[index]]), torch.ones(1, 1)))


def test_compiled_loops_are_the_plain_forms(monkeypatch):
    """Additions in the same order are the same to the bit; products sum 16 terms in another. What
    is read may have gaps in memory."""
    pytest.importorskip("numba", reason="compiled loops need numba")
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 300, (3000, 4), generator=generator)
    rows = Rows(index, torch.rand(3000, 4, generator=generator))
    values, table = (torch.randn(count, 32, generator=generator)[:, ::2] for count in (3000, 300))
    rows = Rows(rows.index.T.contiguous().T, rows.weights.T.contiguous().T)
    results = []
    for _ in range(2):
        added = table.contiguous()
        add_rows(added, rows, values)
        results.append((added, row_products(table, rows.index, values)))
        monkeypatch.setattr(row_sums, "loops_for", lambda *_: None)
    (added, products), (added_plainly, products_plainly) = results
    assert torch.equal(added, added_plainly) and not torch.equal(added, table)
    torch.testing.assert_close(products, products_plainly, atol=1e-5, rtol=0)
