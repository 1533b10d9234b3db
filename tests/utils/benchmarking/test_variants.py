"""The harness: own processes, interleaving, medians, errors by name."""
import os

import pytest
import torch

from utils.benchmarking.variants import Variant, interleaved, matmul_rate


def make_jobs(offset):
    calls = []

    def count():
        calls.append(1)
        return {"calls": len(calls) + offset, "process": os.getpid()}

    def fail():
        raise RuntimeError("out of luck")

    return {"count": count, "fail": fail, "own_time": lambda: {"ms": -7.0}}


@pytest.fixture(scope="module")
def variants():
    made = [Variant("a", make_jobs, 0), Variant("b", make_jobs, 10)]
    yield made
    for variant in made:
        variant.close()


def test_each_variant_has_its_own_process_and_medians_leave_out_the_warm_up(variants):
    found = interleaved(variants, "count", 3, warm_up=2)
    assert found["a"]["calls"] == 4 and found["b"]["calls"] == 14     # median of calls 3, 4, 5
    assert len({found["a"]["process"], found["b"]["process"], os.getpid()}) == 3
    assert found["a"]["ms"] >= 0 and found["a"]["peak_mib"] > 0
    with pytest.raises(RuntimeError, match="a, fail: RuntimeError: out of luck"):
        variants[0].measure("fail")


def test_a_job_may_take_its_own_time(variants):
    assert variants[0].measure("own_time")["ms"] == -7.0


def test_matrix_product_rate_is_plausible():
    rate = matmul_rate(torch.device("cpu"), torch.float32, size=64)
    assert 1e6 < rate < 1e15
