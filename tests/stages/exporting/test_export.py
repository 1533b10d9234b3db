"""A finished run becomes an exported scene; what it costs is measured and told."""
from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import trimesh
from support.tiny_runs import NUM_VIEWS, call, config_of, flags_of, script

from realtime.reading import read_scene
from realtime.renderer import SceneRenderer
from realtime.scene import straight_cameras
from sdf_meshing import to_world
from stages.evaluation import current_renderer
from stages.exporting import export
from stages.exporting.losses import TeacherAggregation
from stages.scene import open_run
from utils.errors import UserError, WriteError

EXPORT = ["--virtual_views", 2, "--distill_steps", 4, "--mesh_resolution", 24]


@pytest.fixture(scope="module")
def flags(tmp_path_factory, tiny_scene, tiny_sphere):
    """Of a run that is finished."""
    found = flags_of(tmp_path_factory.mktemp("runs"), tiny_scene, "--num_steps", 1,
                     sphere=tiny_sphere)
    call("train_sdf_ibr", *found)
    return found


@pytest.mark.parametrize("name", ["scene", "scene.zip"])
def test_a_page_goes_beside_it(flags, name, tmp_path, capsys):
    more = [*EXPORT, "--export_scores", 0, "--output", tmp_path / name, "--web", 1]
    call("export_scene", *flags, *more)
    page = tmp_path / "scene.html"
    assert f"{page}: open it" in capsys.readouterr().out
    assert 'part("mesh"' in page.read_text()
    (tmp_path / name).rename(tmp_path / "moved")
    with pytest.raises(WriteError, match="scene.html exists already"):
        call("export_scene", *flags, *more)


@pytest.mark.parametrize("name", ["scene", "scene.zip"])
def test_a_run_is_exported(flags, name, tmp_path, capsys):
    call("export_scene", *flags, *EXPORT, "--output", tmp_path / name)
    told = capsys.readouterr().out
    for step in ("SDF, full D", "mesh", "8 bits", "student D", "student G"):
        assert f"\n{step}" in told
    scene = read_scene(tmp_path / name)
    assert len(scene) == NUM_VIEWS - 1                 # one is held out
    frame = SceneRenderer(scene).render(scene.cameras[1])
    assert frame.hit_mask.any() and torch.isfinite(frame.picture).all()
    # the poster is what the small networks draw, but for lossy compression
    poster = torch.from_numpy(scene.poster.copy()).permute(2, 0, 1) / 255
    middle = SceneRenderer(scene).render(scene.cameras[len(scene) // 2]).picture
    assert (poster - middle).abs().mean() < 0.03


def test_what_is_stored_is_what_the_run_had(flags, tmp_path):
    call("export_scene", *flags, *EXPORT, "--export_scores", 0, "--output", tmp_path / "scene")
    scene, opened = read_scene(tmp_path / "scene"), open_run(config_of(*flags))
    renderer = current_renderer(opened.trainer, opened.step)
    sources = renderer.sources
    assert torch.equal(scene.masks, sources.masks)
    inside = sources.masks.expand(-1, 3, -1, -1)
    stored = scene.photographs.float() / 255
    assert (stored - sources.images).abs()[inside].max() < 0.5 / 255 + 1e-6
    features = scene.features.values()
    step = ((scene.features.high - scene.features.low) / 255)[:, None, None]
    error = ((features - renderer.features.float()).abs() / step)[
        sources.masks.expand_as(features)]
    assert error.max() < 0.51                          # half a step of 8 bits, and rounding
    # cameras have the same rays, and a point has the depth that is stored
    origins, dirs = scene.cameras.pixel_rays()
    expected = sources.cameras.pixel_rays()
    assert torch.allclose(origins, expected[0], atol=1e-5)
    assert torch.allclose(dirs, expected[1], atol=1e-5)
    depths = scene.depths.values()
    seen = depths.isfinite() & sources.surface.hit_mask
    _, z = scene.cameras.project(sources.surface.points_obj.permute(0, 2, 3, 1))
    own = z[torch.arange(len(scene)), torch.arange(len(scene))][:, None]
    assert seen.sum() > 500 and (depths - own).abs()[seen].max() < 1e-4
    up = np.array(scene.up)
    assert np.isclose(np.linalg.norm(up), 1)


def test_with_the_teachers_networks_an_exported_scene_shows_what_the_run_shows(flags, tmp_path):
    """Samples, visibility and weights agree: the same blended features, to 8 bits of them."""
    call("export_scene", *flags, *EXPORT, "--export_scores", 0, "--mesh_tolerance", 0,
         "--mesh_resolution", 96, "--output", tmp_path / "scene")
    scene, opened = read_scene(tmp_path / "scene"), open_run(config_of(*flags))
    renderer = current_renderer(opened.trainer, opened.step)
    camera = opened.scene.cameras[opened.split.test[0]]
    found = SceneRenderer(replace(scene, aggregation=TeacherAggregation(renderer.model))).render(
        straight_cameras(camera))
    expected = renderer(camera)
    both = found.hit_mask[0] & expected.hit_mask[0, 0]
    assert both.sum() > 0.97 * expected.hit_mask.sum()
    apart = (found.points_obj - expected.points_obj[0]).norm(dim=0)[both]
    assert apart.quantile(0.95) < 0.01
    weights = (found.weights - expected.weights[:, 0]).abs().amax(0)[both]
    assert (weights < 0.05).float().mean() > 0.9       # others lie on the edge of a test


def test_bad_input_is_told_before_anything_is_done(flags, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(WriteError, match="something else"):
        call("export_scene", *flags, *EXPORT, "--output", tmp_path / "mine")
    with pytest.raises(UserError, match="need at least 2"):
        call("export_scene", *flags, *EXPORT, "--output", tmp_path / "a", "--train_views", 1)
    with pytest.raises(UserError, match="sum to 1"):
        call("export_scene", *flags, *EXPORT, "--output", tmp_path / "a",
             "--feature_aggregation_method", "sum")
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="--output is missing"):
        script("export_scene").main(flags)


@pytest.mark.skipif(not find_spec("xatlas"), reason="xatlas is not installed")
def test_a_textured_mesh_goes_where_it_is_asked_for(flags, tmp_path, capsys, caplog,
                                                          monkeypatch):
    """Its vertices are those of the exported mesh, in world units; where the world is far from 0,
    it is said what they are relative to."""
    def far(config):
        found = open_run(config)
        return replace(found, scene=replace(found.scene, world_origin=(4e5, 5e6, 0.0)))

    monkeypatch.setattr(export, "open_run", far)
    call("export_scene", *flags, *EXPORT, "--export_scores", 0, "--output", tmp_path / "scene",
         "--occlusion_method", "agreement", "--textured_mesh", tmp_path / "owl.glb",
         "--texture_size", 64)
    told = capsys.readouterr().out
    assert f"{tmp_path / 'owl.glb'}: 0.0" in told
    assert "relative to [400000.0, 5000000.0, 0.0]" in told
    assert "this run has --occlusion_method agreement" in caplog.text
    (mesh,) = trimesh.load(tmp_path / "owl.glb", process=False).geometry.values()
    assert mesh.visual.material.baseColorTexture.size == (64, 64)
    found = read_scene(tmp_path / "scene").mesh
    model = open_run(config_of(*flags)).scene.cameras.model
    np.testing.assert_allclose(np.unique(mesh.vertices, axis=0), np.unique(
        to_world(found.vertices_obj, model).astype(np.float32), axis=0), atol=1e-5)
