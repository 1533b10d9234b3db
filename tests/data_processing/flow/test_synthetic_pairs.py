"""Synthetic pairs: exact flow and occlusion both ways, against slow twins and moved pictures."""
from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image
from support.flow_cases import diamond, shifted, smooth_texture, two_layers

from data_processing.flow import synthetic_pairs
from data_processing.flow.pairs import FolderPairs
from data_processing.flow.synthetic_layers import (
    HARMONICS,
    REACH,
    Shape,
    find_pictures,
    random_motion,
    random_shape,
    random_texture,
)
from data_processing.flow.synthetic_pairs import (
    HELD_OUT,
    Layer,
    SyntheticPairs,
    foremost,
    make_pair,
    make_pair_folder,
    pixel_points,
    random_layers,
)
from utils.config.tool_sections import MakeFlowConfig
from utils.errors import ConfigError, SceneError, WriteError

RESOLUTION = (24, 18)


def some_layers(seed, resolution=RESOLUTION):
    return random_layers(np.random.default_rng(seed), resolution)


def foremost_of(layers, point, end):
    """The slow twin: one point, every layer from the front on, no boxes."""
    for number in range(len(layers) - 1, 0, -1):
        origin = layers[number].motion.inverse(point) if end else point
        if layers[number].shape.covers(origin[None])[0]:
            return number
    return 0


def sample(image, points):
    """Bilinear colours of an image at points inside it."""
    points = np.clip(points, 0, np.array(image.shape[1::-1]) - 1)
    low = np.minimum(np.floor(points).astype(int), np.array(image.shape[1::-1]) - 2)
    weight = (points - low)[..., None]
    x, y = low[..., 0], low[..., 1]
    upper = image[y, x] * (1 - weight[..., 0, :]) + image[y, x + 1] * weight[..., 0, :]
    lower = image[y + 1, x] * (1 - weight[..., 0, :]) + image[y + 1, x + 1] * weight[..., 0, :]
    return upper * (1 - weight[..., 1, :]) + lower * weight[..., 1, :]


def test_motions_have_exact_inverses():
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 150, (200, 2))
    for strength in (1.0, 2.5, 6.0):
        motion = random_motion(rng, np.array([40.0, 30.0]), 100.0, strength=strength,
                               drift=np.array([3.0, -2.0]))
        moved = motion.forward(points)
        assert np.abs(moved - points).max() > 1
        np.testing.assert_allclose(motion.inverse(moved), points, atol=1e-10)   # rounding
        np.testing.assert_allclose(motion.forward(motion.inverse(points)), points, atol=1e-10)


def test_polygons_cover_what_opencv_says():
    rng = np.random.default_rng(1)
    points = pixel_points((40, 40), 1).reshape(-1, 2)
    polygons = 0
    while polygons < 5:
        shape = random_shape(rng, (40, 40))
        if not len(shape.corners) or shape.hole:
            continue
        polygons += 1
        outline = (shape.corners @ np.linalg.inv(shape.frame).T + shape.centre).astype(np.float32)
        distance = np.array([cv2.pointPolygonTest(outline, tuple(map(float, p)), True)
                             for p in points])
        clear = np.abs(distance) > 1e-3                   # the outline is rounded to float32
        assert np.array_equal(shape.covers(points)[clear], (distance > 0)[clear])
        assert shape.covers(points).any()


def test_blobs_and_holes_follow_their_radius():
    rng = np.random.default_rng(2)
    harmonics = rng.uniform(-0.11, 0.11, (len(HARMONICS), 2))
    shape = Shape(np.array([12.0, 9.0]), np.eye(2) / 6, np.zeros((0, 2)), harmonics, 0.5)
    points = rng.uniform(0, 24, (500, 2))
    for point, covered in zip(points, shape.covers(points), strict=True):
        x, y = (point - shape.centre) / 6
        angle = np.arctan2(y, x)
        radius = 1 + sum(c * np.cos(k * angle) + s * np.sin(k * angle)
                         for k, (c, s) in zip(HARMONICS, harmonics, strict=True))
        assert covered == (radius / 2 <= np.hypot(x, y) < radius)


def test_no_outline_goes_beyond_its_reach():
    rng = np.random.default_rng(3)
    angle = np.arange(360) * np.pi / 180
    ring = np.stack([np.cos(angle), np.sin(angle)], -1) * REACH * 0.999
    for _ in range(40):
        shape = random_shape(rng, (64, 48))
        assert not shape._inside(ring).any()


def test_textures_are_bilinear_and_mirrored():
    texture = smooth_texture()
    texels, origin = texture.texels, texture.origin
    at = np.array([[3.0, 5.0], [0.0, 0.0]])
    for point in at:
        column, row = (point + origin).astype(int)
        np.testing.assert_allclose(texture.colours(point), texels[row, column])
    half = texture.colours(np.array([3.5, 5.0]))
    np.testing.assert_allclose(half, (texels[75, 73] + texels[75, 74]) / 2, rtol=1e-6)
    last = 159 - 70
    np.testing.assert_allclose(texture.colours(np.array([last + 4.25, 0.0])),
                               texture.colours(np.array([last - 4.25, 0.0])), rtol=1e-5)
    np.testing.assert_allclose(texture.colours(np.array([-70 - 4.25, 0.0])),
                               texture.colours(np.array([-70 + 4.25, 0.0])), rtol=1e-5)


@pytest.mark.parametrize("end", [0, 1])
def test_the_foremost_layer_is_that_of_the_slow_twin(end):
    for seed in range(4):
        layers = some_layers(seed)
        points = np.random.default_rng(seed).uniform(-3, 26, (150, 2))
        slow = [foremost_of(layers, point, end) for point in points]
        assert foremost(layers, points, end).tolist() == slow
        assert len(set(slow)) > 1


def test_flow_and_occlusion_are_those_of_the_slow_twin():
    """Pixel by pixel: follow the foremost layer's motion, see whether it is in front there too."""
    hidden = 0
    for seed in range(2):
        layers = some_layers(seed)
        pair = make_pair(layers, RESOLUTION, supersampling=1)
        for end, flow, occluded in ((0, pair.flow_01, pair.occluded_01),
                                    (1, pair.flow_10, pair.occluded_10)):
            for y in range(RESOLUTION[1]):
                for x in range(RESOLUTION[0]):
                    point = np.array([x, y], float)
                    number = foremost_of(layers, point, end)
                    motion = layers[number].motion
                    other = motion.inverse(point) if end else motion.forward(point)
                    inside = all(-0.5 <= other[k] <= RESOLUTION[k] - 0.5 for k in (0, 1))
                    seen = inside and foremost_of(layers, other, 1 - end) == number
                    np.testing.assert_allclose(flow[y, x], other - point, atol=1e-5)  # float32
                    assert occluded[y, x] == (not seen)
                    hidden += not seen
    assert hidden > 100


def test_flow_brings_each_picture_onto_the_other_where_nothing_hides():
    """Smooth textures under random motions; a pixel beside an edge samples two layers: left out."""
    rng = np.random.default_rng(4)
    size = (64, 48)
    motions = [random_motion(rng, np.array([30.0, 25.0]), 64.0, strength=s, drift=np.zeros(2))
               for s in (1, 2.5)]
    layers = [Layer(motions[0], smooth_texture()),
              Layer(motions[1], smooth_texture(2.0), diamond(30, 25, 15))]
    pair = make_pair(layers, size, supersampling=1)
    centres = pixel_points(size, 1)
    ends = ((pair.image_0, pair.image_1, pair.flow_10, pair.occluded_10, pair.layers_0,
             pair.layers_1),
            (pair.image_1, pair.image_0, pair.flow_01, pair.occluded_01, pair.layers_1,
             pair.layers_0))
    for source, target, flow, occluded, source_layers, layers_here in ends:
        moved = sample(source.astype(float), centres + flow)
        pure = sample(source_layers[..., None].astype(float), centres + flow)[..., 0] \
            == layers_here
        framed = ((centres + flow >= 0) & (centres + flow <= np.array(size) - 1)).all(-1)
        clear = ~occluded & pure & framed
        error = np.abs(moved - target)[clear]
        assert clear.mean() > 0.6 and (layers_here[clear] == 1).sum() > 200
        # Half a level of rounding in each picture, and the textures' curvature between pixels.
        assert error.max() < 3 and error.mean() < 0.6
        assert np.abs(source.astype(float) - target)[clear].mean() > 5


def test_supersampling_averages_points_of_a_pixel():
    points = pixel_points((3, 2), 2)
    assert points.shape == (4, 6, 2)
    np.testing.assert_allclose(points[:2, :2].mean((0, 1)), [0, 0])
    np.testing.assert_allclose(points[2:, 4:].mean((0, 1)), [2, 1])
    layers = two_layers(shifted(1, 0), shifted(-2, 1))
    one, four = (make_pair(layers, (40, 32), supersampling=s) for s in (1, 4))
    assert np.array_equal(one.flow_10, four.flow_10)
    assert np.array_equal(one.occluded_01, four.occluded_01)
    inner = cv2.erode((one.layers_0 == 1).astype(np.uint8), np.ones((3, 3))) > 0
    assert np.abs(one.image_0[inner].astype(int) - four.image_0[inner]).max() <= 3
    assert np.abs(one.image_0.astype(int) - four.image_0).max() > 10      # edges are softer


def test_pairs_are_told_by_seed_stream_and_number():
    def picture(seed=0, index=3, **more):
        return SyntheticPairs((32, 24), seed, **more).exact_pair(index).image_1

    assert np.array_equal(picture(), picture())
    for other in (picture(seed=1), picture(index=4), picture(stream=HELD_OUT),
                  picture(seed=2**40), picture(index=2**33)):
        assert np.abs(other.astype(int) - picture()).mean() > 5
    assert not np.array_equal(picture(seed=2**40), picture(seed=2**40 + 2**32))


def test_pairs_move_and_hide_enough_but_not_all():
    pairs = [SyntheticPairs((64, 48), 0).exact_pair(index) for index in range(8)]
    moved = [np.linalg.norm(pair.flow_10, axis=-1).mean() for pair in pairs]
    hidden = [pair.occluded_10.mean() for pair in pairs]
    assert 0.01 < np.median(moved) / 64 < 0.15
    assert 0.02 < np.mean(hidden) < 0.35 and max(hidden) < 0.8
    assert all(len(np.unique(pair.layers_1)) > 1 for pair in pairs)
    found = SyntheticPairs((64, 48), 0).pair(0)
    assert (found.flow_10[found.occluded_mask] == 0).all() and found.known_mask.all()


def test_textures_come_from_pictures_where_there_are_some(tmp_path):
    for name, colour in (("a.png", (200, 10, 10)), ("b.jpg", (10, 200, 10))):
        Image.fromarray(np.full((40, 900, 3), colour, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    pair = SyntheticPairs((32, 24), 0, pictures=str(tmp_path)).exact_pair(0)
    distance = np.abs(pair.image_0[..., None, :].astype(int) - [[200, 10, 10], [10, 200, 10]])
    pure = distance.max(-1).min(-1) <= 6                  # JPEG, and edges blend the two
    assert pure.mean() > 0.7
    texture = random_texture(np.random.default_rng(0), 20, find_pictures(tmp_path))
    assert texture.texels.shape == (25, 25, 3)


def test_what_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="8x24.*need sides of at least 16"):
        SyntheticPairs((8, 24), 0)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SceneError, match="need .png.*--pictures"):
            SyntheticPairs((32, 24), 0, pictures=str(folder))


def settings(folder, **changes):
    return MakeFlowConfig(**{"output": str(folder), "num_pairs": 2, "resolution": "24x18",
                             **changes})


def test_a_folder_of_pairs_is_read_back_and_gone_on_with(tmp_path, monkeypatch):
    folder = make_pair_folder(settings(tmp_path / "pairs"))
    source, truth = FolderPairs(folder), SyntheticPairs((24, 18), 0)
    assert len(source) == 2 and len(list(folder.iterdir())) == 2 * 8 + 1
    found, expected = source.pair(1), truth.exact_pair(1)
    assert np.array_equal(found.image_1, expected.image_1)
    assert np.array_equal(found.flow_10, expected.flow_10)
    assert np.array_equal(found.occluded_mask, expected.occluded_10)
    written = []
    monkeypatch.setattr(synthetic_pairs, "write_pair",
                        lambda pair, folder, name: written.append(name))
    make_pair_folder(settings(tmp_path / "pairs", num_pairs=4))
    assert written == ["0000002", "0000003"]


def test_folders_that_hold_something_else_are_left_alone(tmp_path):
    folder = make_pair_folder(settings(tmp_path / "pairs", num_pairs=1))
    with pytest.raises(WriteError, match="other settings.*--output"):
        make_pair_folder(settings(folder, seed=1))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(WriteError, match="other files"):
        make_pair_folder(settings(tmp_path / "mine"))
    with pytest.raises(WriteError, match="other files"):
        make_pair_folder(settings(tmp_path / "mine" / "letter.txt"))
    (folder / synthetic_pairs.SETTINGS_FILE).write_text("{")
    with pytest.raises(WriteError):
        make_pair_folder(settings(folder))
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["letter.txt"]
    assert json.loads((make_pair_folder(settings(tmp_path / "new", num_pairs=1))
                       / synthetic_pairs.SETTINGS_FILE).read_text())["resolution"] == "24x18"
