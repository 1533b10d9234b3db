"""Crops keep the flow true, colours change alike, and only seed and step tell what comes next."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.flow_cases import write_flyingchairs2

from data_processing.flow.batches import (
    BatchStream,
    TrainingSamples,
    as_batch,
    change_colours,
    crop_pair,
)
from data_processing.flow.pairs import FlowPair, FolderPairs
from data_processing.flow.synthetic_pairs import SyntheticPairs
from utils.errors import SceneError

WIDTH, HEIGHT = 60, 44


def coded_pair(flow):
    """Image 0's colour is where it is: (x, y, 0); image 1's is where its flow leads to."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    here = np.stack([x, y], -1)
    colours = [np.concatenate([at, np.zeros((HEIGHT, WIDTH, 1), int)], -1)
               for at in (here, np.clip(here + flow, 0, 255))]
    occluded = np.zeros((HEIGHT, WIDTH), bool)
    occluded[20:24] = True
    known = np.ones((HEIGHT, WIDTH), bool)
    known[:, 30:33] = False
    field = np.where((known & ~occluded)[..., None], flow, 0).astype(np.float32)
    return FlowPair("coded", *(c.astype(np.uint8) for c in colours), field, known, occluded)


def differing(one, other):
    return [name for name in ("image_0", "image_1", "flow_10", "known_mask", "seen_mask")
            if not torch.equal(getattr(one, name), getattr(other, name))]


def test_batches_have_the_networks_form():
    pair = coded_pair(np.array([3, -2]))
    batch = as_batch([pair, replace(pair, image_0=pair.image_1)])
    assert batch.image_0.shape == (2, 3, HEIGHT, WIDTH) and batch.flow_10.shape[1] == 2
    assert batch.image_0.dtype == torch.float32
    torch.testing.assert_close(batch.image_0[0, :, 5, 7], torch.tensor([7 / 255, 5 / 255, 0]))
    assert batch.flow_10[0, :, 0, 0].tolist() == [3, -2]
    assert batch.known_mask.dtype == batch.seen_mask.dtype == torch.bool
    assert not batch.seen_mask[0, 0, 21].any() and batch.known_mask[0, 0, 21, 0]
    assert not batch.known_mask[0, 0, :, 31].any() and not batch.seen_mask[0, 0, :, 31].any()
    floats = replace(pair, image_0=np.full((HEIGHT, WIDTH, 3), 0.25, np.float32))
    assert (as_batch([floats]).image_0 == 0.25).all()
    assert batch.to(torch.device("cpu")).image_0 is batch.image_0


@pytest.mark.parametrize("flow", [(0, 0), (9, -4), (-30, 20)])
def test_a_crops_flow_leads_to_the_same_place_of_image_0(flow):
    pair, rng = coded_pair(np.array(flow)), np.random.default_rng(0)
    corners, inside_share = set(), []
    for _ in range(12):
        crop = crop_pair(pair, (24, 16), rng)
        seen = crop.known_mask & ~crop.occluded_mask
        rows, columns = np.nonzero(seen)
        at = (np.stack([columns, rows], -1) + crop.flow_10[seen]).astype(int)
        inside = ((at >= 0) & (at < (24, 16))).all(-1)
        inside_share.append(inside.mean())
        found = crop.image_0[at[inside, 1], at[inside, 0]]
        assert np.array_equal(found, crop.image_1[seen][inside])
        assert (crop.flow_10[~seen] == 0).all()
        corners.add(tuple(crop.image_0[0, 0]))
    assert len(corners) > 4
    kept = np.prod([max(1 - abs(f) / side, 0) for f, side in zip(flow, (24, 16))])
    assert np.mean(inside_share) >= kept + (0.1 if any(flow) else 0)     # windows that stay: kept


def test_the_whole_picture_is_a_crop_and_more_is_refused():
    pair, rng = coded_pair(np.array([2, 1])), np.random.default_rng(0)
    whole = crop_pair(pair, (WIDTH, HEIGHT), rng)
    assert np.array_equal(whole.image_0, pair.image_0)
    assert np.array_equal(whole.flow_10, pair.flow_10)
    with pytest.raises(SceneError, match="coded is 60x44, need at least the crops' 61x40.*60x40"):
        crop_pair(pair, (61, 40), rng)


def test_nothing_seen_still_makes_a_crop():
    pair = replace(coded_pair(np.array([2, 1])), occluded_mask=np.ones((HEIGHT, WIDTH), bool))
    assert (crop_pair(pair, (24, 16), np.random.default_rng(0)).flow_10 == 0).all()


def test_colours_change_alike_in_both_images():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    pair = replace(coded_pair(np.array([0, 0])), image_0=image, image_1=image[::-1])
    levels = []
    for _ in range(5):
        found = change_colours(pair, rng)
        assert found.image_0.dtype == np.float32
        assert np.array_equal(found.image_0, found.image_1[::-1])
        assert 0 <= found.image_0.min() and found.image_0.max() <= 1
        levels.append(found.image_0.mean((0, 1)))
        middle = np.corrcoef(found.image_0.mean(-1).ravel(), image.mean(-1).ravel())[0, 1]
        assert middle > 0.9
    assert np.ptp(levels, axis=0).min() > 0.02


def test_each_pair_comes_once_in_an_epoch(tmp_path):
    write_flyingchairs2(tmp_path, 7, (20, 18))
    samples = TrainingSamples(FolderPairs(tmp_path), (20, 18), seed=1)
    epochs = [[samples.pair_index(7 * epoch + n) for n in range(7)] for epoch in range(4)]
    assert all(sorted(order) == list(range(7)) for order in epochs)
    assert len({tuple(order) for order in epochs}) > 2
    again = TrainingSamples(FolderPairs(tmp_path), (20, 18), seed=2)
    assert [again.pair_index(n) for n in range(14)] != epochs[0] + epochs[1]
    assert TrainingSamples(SyntheticPairs((32, 24), 0), (32, 24), 0).pair_index(12345) == 12345


def stream(**options):
    samples = TrainingSamples(SyntheticPairs((24, 18), 0), (16, 16), seed=0)
    return BatchStream(samples, 4, **options)


def test_workers_and_a_later_start_give_the_same_batches():
    plain = stream()
    steps = [plain.at(step)[0] for step in range(4)]
    assert not torch.equal(steps[0].image_0, steps[1].image_0)
    later = stream()
    assert differing(later.at(3)[0], steps[3]) == []
    assert differing(later.at(1)[0], steps[1]) == []      # and back
    torch.manual_seed(0)
    state = torch.get_rng_state()
    busy = stream(num_workers=2)
    assert all(differing(busy.at(step)[0], steps[step]) == [] for step in range(4))
    busy.close()
    assert torch.equal(torch.get_rng_state(), state)      # resumed runs have drawn as often


def test_shares_are_parts_of_the_same_batch():
    whole = stream().at(2)[0]
    parts = [part for rank in (0, 1) for part in stream(micro=4, share=(rank, rank + 2)).at(2)]
    order = [parts[0], parts[2], parts[1], parts[3]]
    assert all(part.image_0.shape[0] == 1 for part in parts)
    assert torch.equal(torch.cat([part.flow_10 for part in order]), whole.flow_10)
    with pytest.raises(ValueError, match="no multiple of 3"):
        stream(micro=3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_pair_is_one_error_in_words(tmp_path, num_workers):
    write_flyingchairs2(tmp_path, 4, (20, 18))
    path = tmp_path / "0000002-flow_10.flo"
    path.write_bytes(b"nothing")
    samples = TrainingSamples(FolderPairs(tmp_path), (16, 16), 0)
    with pytest.raises(SceneError) as caught:
        BatchStream(samples, 4, num_workers=num_workers).at(0)
    assert str(path) in str(caught.value) and "Traceback" not in str(caught.value)
