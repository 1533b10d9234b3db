"""What the host drew goes to the device unchanged; on a CPU it stays where it is."""
import pytest
import torch

from utils.devices import numbers_like, to_device


def test_a_cpu_keeps_the_tensor():
    tensor = torch.arange(3)
    assert to_device(tensor, "cpu") is tensor


def test_another_device_gets_shape_and_dtype():
    moved = to_device(torch.zeros(2, 3, dtype=torch.float64), torch.device("meta"))
    assert moved.is_meta and moved.shape == (2, 3) and moved.dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gets_the_values():
    tensor = torch.rand(1000)
    assert torch.equal(to_device(tensor, "cuda").cpu(), tensor)


def test_numbers_are_made_where_another_tensor_is():
    found = numbers_like(torch.zeros(2, 3, dtype=torch.float64), 1, -2.5)
    assert found.dtype == torch.float64 and found.tolist() == [1.0, -2.5]
