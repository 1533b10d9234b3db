"""Colour maps against known values, image grids by their pixels, files by a round trip."""
from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from utils.errors import WriteError
from utils.results import layout, pictures


def _flat(colour: tuple[int, int, int], width: int = 40, height: int = 30) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def _brightness(picture: np.ndarray) -> np.ndarray:
    return picture.astype(int).sum(-1)


def test_to_uint8_rounds_clamps_and_turns_the_channels():
    image = torch.zeros(3, 1, 4)
    image[0, 0] = torch.tensor([0.5, 1.7, -0.2, float("nan")])
    image[2] = 1.0
    found = pictures.to_uint8(image)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[128, 0, 255], [255, 0, 255], [0, 0, 255], [0, 0, 255]]]


def test_to_uint8_inverts_the_reading_of_bytes():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, 16, 16)
    assert np.array_equal(pictures.to_uint8(levels / 255), levels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (4, 5, 3), (1, 3, 4, 5)])
def test_to_uint8_names_a_wrong_shape(shape):
    with pytest.raises(ValueError, match="need \\(3, H, W\\)"):
        pictures.to_uint8(torch.zeros(shape))


def test_error_map_is_black_for_equal_and_saturates_at_its_scale():
    target = torch.full((3, 1, 4), 0.5)
    offsets = torch.tensor([0.0, 0.5, 1.0, 2.0]) * pictures.ERROR_SCALE
    found = pictures.error_map(target + offsets, target)
    assert _brightness(found)[0, 0] < 10
    assert (np.diff(_brightness(found)[0, :3]) > 100).all()
    assert np.array_equal(found[0, 2], found[0, 3])


def test_error_map_is_the_mean_of_the_channels_of_the_clamped_prediction():
    target = torch.zeros(3, 1, 2)
    pred = torch.zeros(3, 1, 2)
    pred[1, 0] = torch.tensor([0.3, -5.0])              # a third of 0.3; below 0 is clamped away
    expected = pictures.error_map(torch.tensor([0.1, 0.0]).expand(3, 1, 2), target)
    assert np.array_equal(pictures.error_map(pred, target), expected)
    with pytest.raises(ValueError, match="need equal"):
        pictures.error_map(pred, torch.zeros(3, 2, 2))


def test_normals_become_colours_and_the_rest_white():
    normals = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, 1]]).T.reshape(3, 1, 3)
    mask = torch.tensor([[[True, True, False]]])
    found = pictures.normals_to_rgb(normals, mask)
    assert found.tolist() == [[[255, 128, 128], [128, 0, 128], [255, 255, 255]]]


def test_depth_is_bright_near_dark_far_white_outside_and_blind_to_unseen_values():
    depth = torch.cat([torch.linspace(2, 3, 100), torch.zeros(50)]).reshape(1, 1, 150)
    found = pictures.depth_to_rgb(depth, depth > 0)
    # viridis rises in brightness all along; its first and last percent share one colour.
    assert (np.diff(_brightness(found)[0, :100]) <= 0).all()
    assert _brightness(found)[0, 0] > _brightness(found)[0, 99] + 200
    assert (found[0, 100:] == 255).all()
    assert np.array_equal(pictures.depth_to_rgb(depth.where(depth > 0, 1e6), depth > 0), found)


@pytest.mark.parametrize("value, share", [(2.0, 1.0), (0.0, 1.0), (float("nan"), 0.0)])
def test_depth_without_range_or_without_surface(value, share):
    found = pictures.depth_to_rgb(torch.full((1, 3, 4), value), torch.full((1, 3, 4), share) > 0.5)
    assert found.shape == (3, 4, 3)
    assert (found == 255).all() == (share == 0)


def test_outline_runs_along_the_inner_border_of_the_mask():
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[:, 2:7, 2:7] = True
    found = pictures.with_outline(torch.zeros(3, 9, 9), mask)
    ring = mask[0].clone()
    ring[3:6, 3:6] = False
    assert np.array_equal((found == pictures.OUTLINE_COLOUR).all(-1), ring.numpy())


def test_outline_does_not_follow_the_edge_of_the_picture():
    found = pictures.with_outline(torch.zeros(3, 9, 9), torch.ones(1, 9, 9, dtype=torch.bool))
    assert (found == 0).all()


def test_view_pictures_keep_each_silhouette_and_score_by_the_true_one():
    photograph, prediction = torch.full((3, 1, 3), 0.4), torch.full((3, 1, 3), 0.6)
    mask, hit_mask = torch.tensor([[[True, True, False]]]), torch.tensor([[[False, True, True]]])
    found = pictures.view_pictures(prediction, photograph, mask, hit_mask=hit_mask,
                                   normals=torch.zeros(3, 1, 3), depth=torch.ones(1, 1, 3))
    assert (found.prediction[0, :, 0] == [255, 153, 153]).all()
    assert (found.photograph[0, :, 0] == [102, 102, 255]).all()
    assert (_brightness(found.error)[0] > 10).tolist() == [True, True, False]
    assert (found.normals[0, 0] == 255).all() and (found.depth[0, 0] == 255).all()


def test_grid_shows_every_picture_unchanged_in_row_and_column_order():
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 0, 255)]]
    found = pictures.image_grid([[_flat(c, 200, 150) for c in row] for row in colours],
                           ["upper", "lower"], ["left", "right"], "title")
    places = [[np.argwhere((found == colour).all(-1)) for colour in row] for row in colours]
    assert all(len(place) == 200 * 150 for row in places for place in row)
    assert places[0][0][:, 0].max() < places[1][0][:, 0].min()
    assert places[0][0][:, 1].max() < places[0][1][:, 1].min()


def test_grid_enlarges_small_pictures_in_whole_steps_and_shrinks_large_ones():
    checkers = np.indices((6, 8)).sum(0) % 2 * np.uint8(255)
    small = pictures.image_grid([[np.stack([checkers] * 3, -1)]])
    step = layout.MIN_CELL // 8
    cut = small[layout.GAP:-layout.GAP:step, layout.GAP:-layout.GAP:step]
    assert np.array_equal(cut[..., 0], checkers)
    large = pictures.image_grid([[_flat((9, 9, 9), 1600, 1200)]])
    assert (large == 9).all(-1).sum() == layout.MAX_CELL * layout.MAX_CELL * 3 // 4


def test_grid_cuts_no_label_however_long():
    long = "a name that is far longer than the picture is wide, $with_signs"
    found = pictures.image_grid([[_flat((0, 0, 0))], [None]], [long, "second\nline"], [long], long)
    rim = np.concatenate([found[:3], found[-3:]]).reshape(-1, 3)
    assert (rim == 255).all() and (found[:, :3] == 255).all() and (found[:, -3:] == 255).all()
    assert found.shape[1] > 2 * layout.text_size(long, layout.LABEL_POINTS)[0]


def test_grid_draws_its_labels():
    picture = [[_flat((200, 0, 0))]]
    plain = pictures.image_grid(picture)
    labelled = pictures.image_grid(picture, ["row"], ["column"], "title")
    assert (plain.sum(-1) < 100).sum() == 0
    assert (labelled.sum(-1) < 100).sum() > 50


def test_grid_names_what_does_not_fit():
    with pytest.raises(ValueError, match="row and .* column labels"):
        pictures.image_grid([[_flat((0, 0, 0))]], ["one", "two"])
    with pytest.raises(ValueError, match="no picture"):
        pictures.image_grid([[None]])


def test_grid_has_captions_and_colour_bars_below_its_pictures():
    picture = _flat((200, 0, 0), 200, 150)
    plain = pictures.image_grid([[picture, picture]] * 2)
    bar = layout.ColourBar("inferno", "0", "1")
    found = pictures.image_grid([[picture, picture]] * 2, captions=[["25.1 dB", ""], ["", "9 dB"]],
                                bars={1: bar})
    assert (found == (200, 0, 0)).all(-1).sum() == 4 * 200 * 150
    assert found.shape[0] > plain.shape[0] + layout.BAR_HEIGHT
    strip = bar.strip(200)
    top = next(row for row in range(found.shape[0]) if np.array_equal(
        found[row:row + layout.BAR_HEIGHT, 200 + 2 * layout.GAP:400 + 2 * layout.GAP], strip))
    assert top > np.argwhere((found == (200, 0, 0)).all(-1))[:, 0].max()
    assert (strip[0, 0] < 10).all() and strip[0, -1].sum() > 500      # black to pale yellow


def test_captions_say_the_psnr_and_the_range_of_depths():
    """Prediction and photograph differ by 0.1 everywhere: 20 dB."""
    photograph, mask = torch.full((3, 1, 3), 0.4), torch.ones(1, 1, 3, dtype=torch.bool)
    shown = {"normals": torch.zeros(3, 1, 3), "depth": torch.tensor([[[2.0, 3.0, 4.0]]])}
    found = pictures.view_pictures(photograph + 0.1, photograph, mask, hit_mask=mask, **shown)
    assert found.captions == ("20.00 dB", "", "", "", "2.02 to 3.98")
    empty = pictures.view_pictures(photograph, photograph, mask, hit_mask=~mask, **shown)
    assert empty.captions[4] == "no surface"


def test_view_grid_has_five_columns():
    view = pictures.ViewPictures(*[_flat((i + 1, 0, 0), 200, 100) for i in range(5)])
    found = pictures.view_grid([view, view], ["view 3\n25.1 dB", "view 4"])
    for i in range(5):
        assert (found == (i + 1, 0, 0)).all(-1).sum() == 2 * 200 * 100


def test_source_grid_wraps_many_sources():
    count = pictures.SOURCES_PER_ROW + 1
    images, masks = torch.full((count, 3, 6, 8), 0.5), torch.ones(count, 1, 6, 8) > 0
    weights = torch.full((count, 1, 3, 4), 1 / count)
    names = [str(i) for i in range(count)]
    found = pictures.source_grid(images, masks, weights, names)
    half = slice(0, (count + 1) // 2)                     # rows are as even as can be
    one_row = pictures.source_grid(images[half], masks[half], weights[half], names[half])
    assert found.shape[1] == one_row.shape[1] and found.shape[0] > 1.5 * one_row.shape[0]
    grey = (found == 128).all(-1).sum()
    assert grey >= count * layout.MIN_CELL ** 2 * 3 // 4
    with pytest.raises(ValueError, match="need one of each a view"):
        pictures.source_grid(images, masks, weights[:2], names)


def test_save_png_round_trip_makes_folders_and_leaves_nothing_else(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "views" / "a.png"
    pictures.save_png(path, picture)
    assert np.array_equal(iio.imread(path), picture)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_save_png_refuses_floats_and_names_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        pictures.save_png(tmp_path / "a.png", np.zeros((4, 4, 3)))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="file"):
        pictures.save_png(tmp_path / "file" / "a.png", _flat((0, 0, 0)))


def test_flow_is_hue_and_saturation():
    """Right is red, left its complement; half of the length is half as saturated; 0 is white."""
    flow = torch.tensor([[2.0, -2.0, 1.0, 0.0, float("nan"), 9.0], [0.0] * 6])[:, None]
    found = pictures.flow_to_rgb(flow, 2.0)[0].tolist()
    assert found == [[255, 0, 0], [0, 255, 255], [255, 128, 128], [255] * 3, [0] * 3, [255, 0, 0]]


def test_distances_are_coloured_up_to_their_85th_percentile():
    distances = torch.arange(100.0).reshape(1, 10, 10)
    mask = torch.ones(1, 10, 10, dtype=torch.bool)
    mask[:, 0] = False
    found = pictures.distances_to_rgb(distances, mask)
    assert (found[0] == 255).all() and (found[9, 9] == found[8, 9]).all()
    assert (found[1, 0] != found[5, 0]).any()
    assert (pictures.distances_to_rgb(distances, ~mask & False) == 255).all()
