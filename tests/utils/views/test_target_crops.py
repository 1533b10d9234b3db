"""Crops of targets: how they are drawn, that losses keep their expectation, what is traced."""
from __future__ import annotations

import pytest
import torch
from support.tiny_runs import differing
from support.tracing_cases import cameras_at
from support.trainers import trainer_of

from utils.config.values import crop_size
from utils.errors import ConfigError
from utils.views.surface_buffer import SurfaceBuffer
from utils.views.target_crops import STRIDE, CroppedTargets, Crops, CropSampler, touched_pixels
from utils.views.training_views import Batch

#: A side that the crops divide, one that they do not, one that is no multiple of the stride.
SIZES = [((48, 32), (24, 16)), ((50, 37), (20, 16)), ((33, 16), (16, 32)), ((20, 18), (99, 99))]


def all_crops(sampler: CropSampler) -> Crops:
    """All that can be drawn, equally likely: the expectation is the mean over them."""
    num_rows, num_columns = len(sampler.rows.starts), len(sampler.columns.starts)
    rows, row_weight = sampler.rows.at(torch.arange(num_rows).repeat_interleave(num_columns))
    columns, column_weight = sampler.columns.at(torch.arange(num_columns).repeat(num_rows))
    return Crops(rows, columns, row_weight[:, None, :, None] * column_weight[:, None, None])


@pytest.mark.parametrize("size, crop", SIZES)
def test_the_mean_over_crops_is_that_of_the_image(size, crop):
    """Exactly, to the rounding of float32 sums."""
    sampler = CropSampler(size, crop)
    image = torch.rand(size[1], size[0], generator=torch.Generator().manual_seed(0))
    crops = all_crops(sampler)
    parts = image[crops.rows[:, :, None], crops.columns[:, None]]             # (N, h, w)
    means = (parts * crops.weight[:, 0]).mean((1, 2))
    torch.testing.assert_close(means.mean(), image.mean(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size, crop", SIZES)
def test_crops_lie_in_the_image_and_their_weights_are_bounded(size, crop):
    crops = CropSampler(size, crop).draw(200, torch.Generator().manual_seed(0))
    for pixels, whole, part in ((crops.columns, size[0], crop[0]),
                                (crops.rows, size[1], crop[1])):
        length = pixels.shape[1]
        assert length == whole or (length >= part and length % STRIDE == 0)
        assert pixels.min() == 0 and pixels.max() == whole - 1         # both ends come up
        assert (pixels.diff(dim=1) == 1).all()
        assert ((pixels[:, 0] % STRIDE == 0) | (pixels[:, -1] == whole - 1)).all()
    assert crops.weight.min() > 0.25 and crops.weight.max() < 4.5


def test_crops_follow_the_generator():
    sampler = CropSampler((64, 48), (16, 16))
    one, same, other = (sampler.draw(8, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.rows, same.rows) and torch.equal(one.columns, same.columns)
    assert not (torch.equal(one.rows, other.rows) and torch.equal(one.columns, other.columns))


@pytest.mark.parametrize("text, size", [("64", (64, 64)), ("320x240", (320, 240)),
                                        ("8X16", (8, 16))])
def test_sizes_are_read(text, size):
    assert crop_size(text) == size


@pytest.mark.parametrize("text", ["0", "64x", "axb", "1x2x3", "-4", "12.5"])
def test_what_is_no_size_is_told(text):
    with pytest.raises(ConfigError, match="--target_crop is"):
        crop_size(text)


def test_a_crop_reads_and_writes_its_pixels_of_the_buffer():
    buffer = SurfaceBuffer(cameras_at([(3.0, 0.0, 0.1), (2.5, 0.0, 1.5), (0.0, 0.0, 3.0)],
                                      (32, 24)))
    index = torch.tensor([2, 0])
    crops = CropSampler((32, 24), (16, 16)).draw(2, torch.Generator().manual_seed(3))
    targets = CroppedTargets(buffer, index, crops)
    rays = targets.rays()
    row, column = crops.rows[1, 5], crops.columns[1, 7]
    torch.testing.assert_close(rays.dirs_obj[256 + 5 * 16 + 7], buffer.dirs[0, :, row, column])
    t = torch.arange(512.0, dtype=buffer.t.dtype)
    targets.store(t, t % 2 == 0)
    assert buffer.t[0, 0, row, column] == 256 + 5 * 16 + 7 and not buffer.hit_mask[0, 0, row,
                                                                                   column]
    assert not buffer.t[1].any() and int((buffer.t != 0).sum()) == 511
    assert torch.equal(targets.surface().hit_mask.reshape(-1), t % 2 == 0)


def test_touched_pixels_are_those_that_samples_read():
    """A slow twin: pixels that change what grid_sample gives."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64) * 2 - 1
    grid[0, 0] = torch.tensor([1.0, -1.0])                             # a corner
    counts = torch.tensor([[True] * 5, [True, False, True, False, False]])
    found = torch.zeros(2 * 6 * 8, dtype=torch.bool)
    found[touched_pixels(grid, counts, (8, 6))] = True
    maps = torch.zeros(2, 1, 6, 8, dtype=torch.float64, requires_grad=True)
    sampled = torch.nn.functional.grid_sample(maps, grid[:, :, None], align_corners=True)
    (slopes,) = torch.autograd.grad((sampled[:, 0, :, 0] * counts).sum(), maps)
    assert found[slopes.reshape(-1) != 0].all()
    assert int(found.sum()) <= 4 * int(counts.sum())


def gradients(trainer, batch, crops, part):
    """Gradient of a loss of one batch in all parameters, the shape held still."""
    plan = trainer.plan(0)
    trainer.sampled.sampler.draw = lambda generator: batch
    if crops is not None:
        trainer.sampled.crops.draw = lambda count, generator: crops
    trainer.model.zero_grad(set_to_none=True)
    trainer.generator.manual_seed(0)
    loss = trainer.losses(plan)[part]
    loss.backward()
    return torch.cat([p.grad.reshape(-1) if p.grad is not None else torch.zeros(p.numel())
                      for p in trainer.model.parameters()])


def mean_over_crops(trainer, batch, part):
    """Of the gradients, each different crop once and as often as it is drawn."""
    crops = all_crops(trainer.sampled.crops)
    corners = torch.stack([crops.rows[:, 0], crops.columns[:, 0]], -1)
    total = 0
    for corner, count in zip(*corners.unique(dim=0, return_counts=True), strict=True):
        first = (corners == corner).all(-1).nonzero()[0]
        one = Crops(crops.rows[first], crops.columns[first], crops.weight[first])
        total = total + gradients(trainer, batch, one, part) * count
    return total / len(corners)


@pytest.mark.parametrize("part, tolerance", [("soft_mask", 1e-5), ("image", 0.1)])
def test_the_mean_gradient_over_crops_is_that_of_whole_targets(tiny_scene, tiny_sphere, part,
                                                               tolerance):
    """Of the soft mask to the rounding of float32 sums. Of the image but for D, which pads at a
    crop's border and resizes by its size: 4 % on crops of 16 pixels, all of which are border.
    Plain colours have no D, and show below that nothing else differs."""
    whole = trainer_of(tiny_scene, tiny_sphere, "--tracer", "reference", "--precision", "fp32")
    cropped = trainer_of(tiny_scene, tiny_sphere, "--tracer", "reference", "--precision", "fp32",
                         "--target_crop", "16")
    for trainer in (whole, cropped):
        trainer.model.eval()                               # of batch-norm: the same every time
    batch = Batch(torch.tensor([0, 1, 3]), torch.tensor([1]))
    expected = gradients(whole, batch, None, part)
    found = mean_over_crops(cropped, batch, part)
    assert (found - expected).norm() < tolerance * expected.norm()


def test_plain_colours_have_the_gradient_of_whole_targets(tiny_scene, tiny_sphere):
    """As above without D; what is left is float32 sums and other sources traced anew."""
    flags = ["--tracer", "reference", "--feature_type", "rgb", "--image_loss_region", "foreground",
             "--precision", "fp32"]
    whole = trainer_of(tiny_scene, tiny_sphere, *flags)
    cropped = trainer_of(tiny_scene, tiny_sphere, *flags, "--target_crop", "16")
    batch = Batch(torch.tensor([0, 1, 3]), torch.tensor([1]))
    expected = gradients(whole, batch, None, "image")
    found = mean_over_crops(cropped, batch, "image")
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_what_a_step_needs_is_traced_in_it(tiny_scene, tiny_sphere):
    """A buffer of nonsense does not matter to steps on crops."""
    trainer, spoilt = (trainer_of(tiny_scene, tiny_sphere, "--target_crop", "16x20")
                       for _ in range(2))
    spoilt.buffer.t.fill_(0.3)
    spoilt.buffer.hit_mask.fill_(True)
    for step in (0, 2):                                    # of shape, of images alone
        losses = [one.train_step(step) for one in (trainer, spoilt)]
        assert differing(*losses) == []


def test_a_crop_as_large_as_the_image_is_the_image(tiny_scene, tiny_sphere):
    """Only the sources' hits are newer than the buffer's: none are at the first step."""
    whole = trainer_of(tiny_scene, tiny_sphere)
    cropped = trainer_of(tiny_scene, tiny_sphere, "--target_crop", "99")
    batch = Batch(torch.tensor([0, 1, 3]), torch.tensor([1, 3]))
    for trainer in (whole, cropped):
        trainer.sampled.sampler.draw = lambda generator: batch
    one, other = whole.train_step(0), cropped.train_step(0)
    for name in ("soft_mask", "image"):
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flags", [
    [], ["--occlusion_method", "agreement"], ["--tracer", "reference"],
    ["--feature_aggregation_method", "lumigraph"], ["--image_loss_region", "foreground"]])
def test_every_alternative_trains_on_crops(tiny_scene, tiny_sphere, flags):
    trainer = trainer_of(tiny_scene, tiny_sphere, "--target_crop", "16", *flags)
    for step in (0, 2):
        assert all(torch.isfinite(value) for value in trainer.train_step(step).values())
