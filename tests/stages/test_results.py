"""What a run leaves behind, for a sphere that is rendered exactly."""
from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import cv2
import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import trimesh
from support.tiny_runs import HEIGHT, WIDTH, config_of

from data_processing.scenes.scene import load_scene
from stages.evaluation import IMAGE_GRIDS, TrainedScene, cloud_of, image_grids, mean_metrics
from stages.mesh_evaluation import read_mesh
from stages.results import writing
from stages.results.video import video_cameras
from stages.results.writing import write_results
from utils.config.sections import DataConfig
from utils.config.values import mesh_formats
from utils.errors import ConfigError, UserError
from utils.geometry.keyframes import read_keyframes, write_keyframes
from utils.runs.folder import RunFolder

RADIUS = 0.5
FACTS = {"steps": 7, "train_seconds": 1.5, "seed": 0}
CURVE = [{"step": 1, "seconds": 0.5, "loss_total": 2.0},
         {"step": 2, "seconds": 1.0, "loss_total": 1.0, "psnr": 20.0}]
OFF = ("--test_rt 0 --test_plot 0 --test_cameras 0 --test_metrics 0 --test_spacetime_video 0 "
       "--mesh_formats none").split()
GRIDS = set(IMAGE_GRIDS) - {"cloud"}                      # of a scene without a point cloud
SMALL = "--mesh_resolution 24 --video_num_frames 3 --video_fps 10".split()


def sphere(points):
    return points.norm(dim=-1) - RADIUS


def render_sphere(cameras, exclude=None):
    """Hits in closed form; the colour of a pixel is its normal, mapped to [0, 1]."""
    origins, dirs = cameras.pixel_rays()                               # (T, H, W, 3)
    middle = -(origins * dirs).sum(-1, keepdim=True)
    under = middle.square() - (origins.square().sum(-1, keepdim=True) - RADIUS ** 2)
    hit = under > 0
    points = (origins + (middle - under.clamp(min=0).sqrt()) * dirs) * hit
    normals = torch.nn.functional.normalize(points, dim=-1)
    row = cameras.object_to_camera[:, None, None, 2]                   # (T, 1, 1, 4)
    depth = -((points * row[..., :3]).sum(-1, keepdim=True) + row[..., 3:])
    maps = [x.movedim(-1, 1) for x in (normals / 2 + 0.5, hit, points, normals, depth * hit)]
    return SimpleNamespace(coverage=None, images=maps[0], hit_mask=maps[1], points_obj=maps[2],
                           normals_obj=maps[3], depth=maps[4],
                           weights=torch.full((4, len(cameras), HEIGHT, WIDTH), 0.25))


@pytest.fixture(scope="module")
def trained(tiny_scene):
    """The exact sphere before photographs of itself."""
    scene = load_scene(tiny_scene)
    found = render_sphere(scene.cameras)
    directions = torch.nn.functional.normalize(
        torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    model = scene.cameras.model
    points_world = directions * RADIUS @ model[:3, :3].T + model[:3, 3]
    scene = replace(scene, images=found.images * found.hit_mask, masks=found.hit_mask,
                    surface_points_world=points_world,
                    surface_normals_world=torch.nn.functional.normalize(
                        directions @ model[:3, :3].T, dim=-1))
    return TrainedScene(scene, (0, 1, 3, 5), (2, 4), render_sphere, sphere,
                        lambda points: torch.ones(4, len(points), dtype=torch.bool),
                        torch.device("cpu"))


def write(trained, root, *flags):
    config = config_of("--experiment_name", "run", *SMALL, *flags)
    folder = RunFolder(root, "run")
    folder.path.mkdir(parents=True, exist_ok=True)
    (folder.path / "config.txt").write_text("lr = 1\n")
    text = write_results(trained, folder, test=config.test, data=config.data, curve=CURVE,
                         facts=FACTS)
    return folder, text


@pytest.fixture(scope="module")
def results(trained, tmp_path_factory):
    """All results, once."""
    return write(trained, tmp_path_factory.mktemp("results"))


def test_exact_views_have_exact_metrics(results):
    folder, _ = results
    metrics = json.loads((folder.path / "metrics.json").read_text())
    assert set(metrics["mean"]) >= {"psnr", "psnr_foreground", "ssim", "lpips", "mask_iou",
                                    "chamfer"}
    assert list(metrics["views"]) == ["002", "004"]
    assert metrics["mean"]["psnr"] == 100                 # the most that is told
    assert metrics["mean"]["ssim"] == pytest.approx(1, abs=1e-5)
    assert metrics["mean"]["mask_iou"] == 1
    assert metrics["mean"]["lpips"] is None               # the views are too small for AlexNet
    assert {key: metrics[key] for key in FACTS} == FACTS
    assert "NaN" not in (folder.path / "metrics.json").read_text()


def test_the_mesh_lies_on_the_sphere_in_world_space(results, trained):
    folder, _ = results
    to_object = torch.linalg.inv(trained.scene.cameras.model.double()).numpy()
    for kind in ("ply", "obj", "glb"):
        mesh = trimesh.load(folder.path / f"mesh.{kind}", force="mesh")
        points = np.asarray(mesh.vertices) @ to_object[:3, :3].T + to_object[:3, 3]
        # Linear interpolation of |x| along a cell of 2 / 23 bends by its square over 8 radii.
        np.testing.assert_allclose(np.linalg.norm(points, axis=-1), RADIUS, atol=2e-3)
        if kind != "glb":                                 # its colours: utils/files/test_glb.py
            colours = np.asarray(mesh.visual.vertex_colors)[:, :3]
            assert colours.std(0).min() > 10              # coloured from the views
    metrics = json.loads((folder.path / "metrics.json").read_text())
    scale = float(torch.linalg.det(trained.scene.cameras.model[:3, :3].double()) ** (1 / 3))
    # 3000 true points lie 0.03 apart: half of that, and the mesh's own error.
    assert 0 < metrics["mean"]["chamfer"] < 0.03 * scale
    assert metrics["chamfer"]["mean"] == metrics["mean"]["chamfer"]
    # a cell of 2 / 23 on a sphere of this radius turns by 10 degrees from side to side
    assert 0 < metrics["chamfer"]["normal_degrees"] < 5


def test_pictures_and_views_open_with_their_size(results):
    folder, _ = results
    found = sorted(path.name for path in folder.views.iterdir())
    assert found == [f"{view}_{kind}.png" for view in ("002", "004") for kind in
                     ("depth", "error", "mask", "mask_pred", "normals", "photograph", "position",
                      "prediction", "shaded")]
    for path in folder.views.iterdir():
        assert imageio.imread(path).shape == (HEIGHT, WIDTH, 3)
    assert {path.stem for path in folder.pictures.iterdir()} == {*GRIDS, "mesh"}
    for path in folder.pictures.iterdir():
        assert imageio.imread(path).std() > 5             # not blank
    photograph = imageio.imread(folder.views / "002_photograph.png")
    assert imageio.imread(folder.views / "002_error.png").max() < 5       # no error: black
    assert photograph.max() > 200


def test_the_video_has_its_frames(results):
    folder, _ = results
    video = cv2.VideoCapture(str(folder.path / "video.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    is_read, frame = video.read()
    assert is_read and frame.shape == (HEIGHT, WIDTH, 3)
    assert frame[0, 0].min() > 230 and frame.std() > 20   # white round the sphere


def test_the_report_needs_no_other_file(results):
    text = (results[0].path / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,30})""", text)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert "@import" not in text and "lr = 1" in text
    assert text.count("data:image/png") >= len(GRIDS) and "data:video/mp4" in text


def test_a_run_named_as_its_scene_is_named_once(tmp_path):
    assert writing._title(RunFolder(tmp_path, "owl"), "owl") == "owl"
    assert writing._title(RunFolder(tmp_path, "a"), "owl") == "a: owl"


def test_curve_and_table(results):
    folder, text = results
    with open(folder.path / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"step": "1", "seconds": "0.5", "loss_total": "2.0", "psnr": ""},
        {"step": "2", "seconds": "1.0", "loss_total": "1.0", "psnr": "20.0"}]
    table, written = text.split("written:")
    assert "7 steps" in table and "mean" in table and "nan" not in table.lower()
    paths = written.split()
    assert {str(folder.path / name) for name in ("mesh.ply", "mesh.obj", "mesh.glb", "video.mp4",
                                                 "report.html", "metrics.json", "views")} \
        <= set(paths)
    assert all(map(str.strip, paths)) and len(paths) == len(set(paths))


def test_nothing_is_made_that_is_not_wanted(trained, tmp_path):
    folder, text = write(trained, tmp_path, *OFF)
    found = sorted(path.name for path in folder.path.iterdir())
    assert found == ["config.txt", "curve.csv", "metrics.csv", "metrics.json", "report.html"]
    metrics = json.loads((folder.path / "metrics.json").read_text())
    assert metrics["views"] == {} and set(metrics["mean"].values()) == {None}
    assert "PSNR" not in text


def test_each_mesh_format_alone(trained, tmp_path):
    folder, _ = write(trained, tmp_path, *OFF, "--mesh_formats", "obj")
    assert [path.name for path in folder.path.glob("mesh.*")] == ["mesh.obj"]
    assert mesh_formats("ply, glb obj") == ["ply", "glb", "obj"] and mesh_formats("none") == []
    with pytest.raises(ConfigError, match="--mesh_formats has stl.*ply, obj, glb"):
        mesh_formats("ply,stl")


def test_an_sdf_without_surface_is_told(trained, tmp_path):
    empty = replace(trained, sdf=lambda points: torch.ones(len(points)))
    folder, text = write(empty, tmp_path, *OFF, "--mesh_formats", "ply", "--test_metrics", 1)
    assert "note: the SDF has no surface" in text
    assert not (folder.path / "mesh.ply").exists()
    assert json.loads((folder.path / "metrics.json").read_text())["mean"]["chamfer"] is None


def test_what_the_metrics_cannot_say_is_noted(trained, tmp_path):
    bare = replace(trained, scored=(0, 1), scene=replace(trained.scene, has_masks=False,
                                                         surface_points_world=None))
    folder, text = write(bare, tmp_path, *OFF, "--test_metrics", 1)
    notes = [line for line in text.splitlines() if line.startswith("note:")]
    assert len(notes) == 2 and "training views" in notes[0] and "no masks" in notes[1]
    assert "no masks" in (folder.path / "report.html").read_text(encoding="utf-8")


def test_a_mesh_far_from_the_origin(trained, tmp_path):
    """Vertices are relative to a point that a file and a note name; with it, they are in UTM."""
    far = (412345.6, 5412345.6, 312.4)
    moved = replace(trained, scene=replace(trained.scene, world_origin=far))
    folder, text = write(moved, tmp_path, *OFF, "--mesh_formats", "ply")
    assert "add it to the vertices in float64" in text and "5412345.6" in text
    assert (folder.path / "mesh_origin.txt").read_text() == "412345.6 5412345.6 312.4\n"
    vertices, _ = read_mesh(folder.path / "mesh.ply")
    model = trained.scene.cameras.model.double().numpy()
    points = (vertices - far - model[:3, 3]) @ np.linalg.inv(model[:3, :3]).T
    # As near by, see above; float32 of a northing would be off by 0.25.
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), RADIUS, atol=2e-3)


def test_metrics_that_are_no_numbers_are_left_out(trained, tmp_path):
    def render(cameras, exclude):
        found = render_sphere(cameras)
        found.images = found.images * (torch.nan if exclude == 4 else 1)
        return found

    broken = replace(trained, render=render)
    folder, text = write(broken, tmp_path, *OFF, "--test_metrics", 1)
    metrics = json.loads((folder.path / "metrics.json").read_text(),
                         parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert metrics["views"]["004"]["psnr"] is None and metrics["views"]["002"]["psnr"] == 100
    assert "nan" not in text.split("written")[0].lower() and "n/a" in text
    assert mean_metrics(replace(broken, scored=(4,))) == {"mask_iou": 1.0}


def counted(trained, asked, **changes):
    """The trained scene with a renderer that notes which view it is asked to keep out."""
    def render(cameras, exclude):
        asked.append(exclude)
        return render_sphere(cameras)

    return replace(trained, render=render, **changes)


def test_views_do_not_feed_themselves(trained):
    asked = []
    mean_metrics(counted(trained, asked, scored=(0, 2)))
    assert asked == [0, 2]


def test_each_scored_view_is_rendered_once_for_all_that_shows_it(trained, tmp_path):
    """Scores, both image grids, the views' files; the video has cameras of its own."""
    asked = []
    shared = counted(trained, asked)
    assert mean_metrics(shared)["psnr"] == 100
    assert set(image_grids(shared)) == GRIDS and asked == [2, 4]
    write(shared, tmp_path)
    assert asked == [2, 4, 0, 1, 3, 5] + [None] * 3      # training views, for their mean PSNR
    assert shared.rendered(2).weights is not None and shared.rendered(4).weights is None


def test_a_camera_plot_renders_nothing(trained):
    asked = []
    assert set(image_grids(counted(trained, asked), ["cameras"])) == {"cameras"} and not asked


@pytest.mark.parametrize("kind", ["interpolate", "eight", "linear"])
def test_video_paths_look_at_the_object(trained, kind):
    config = config_of("--experiment_name", "x", *SMALL, "--video_path_type", kind,
                       "--im_scale", 0.5)
    cameras = video_cameras(trained, config.test, config.data)
    assert len(cameras) == 3 and cameras.resolution == (WIDTH // 2, HEIGHT // 2)
    assert all(render_sphere(cameras[i]).hit_mask.float().mean() > 0.05 for i in range(3))


def test_the_path_starts_from_the_reference_view(trained):
    def first(*flags):
        config = config_of("--experiment_name", "x", *SMALL, "--video_path_type", "linear",
                           "--video_yaw", 0, *flags)
        return video_cameras(trained, config.test, config.data).centers_obj[0]

    centers = trained.scene.cameras.centers_obj
    torch.testing.assert_close(first("--reference_view", 1), centers[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(first(), centers[3], atol=1e-4, rtol=0)     # the middle one of 6


def test_a_saved_path_is_followed(trained, tmp_path):
    guides = trained.scene.cameras[[3, 1]]
    write_keyframes(tmp_path / "path.json", guides)
    config = config_of("--experiment_name", "x", *SMALL, "--video_path", tmp_path / "path.json")
    cameras = video_cameras(trained, config.test, config.data)
    torch.testing.assert_close(cameras.centers_obj[[0, -1]], guides.centers_obj, atol=1e-4, rtol=0)


def test_the_pivot_is_in_object_units(trained):
    """All cameras of a swing are as far from the pivot; rounding of float32."""
    config = config_of("--experiment_name", "x", *SMALL, "--video_path_type", "linear",
                       "--video_pivot_offset", 0.3, -0.2, 0.1)
    centers = video_cameras(trained, config.test, config.data).centers_obj
    distance = (centers - torch.tensor([0.3, -0.2, 0.1])).norm(dim=-1)
    assert (distance - distance[0]).abs().max() < 1e-4
    assert (centers.norm(dim=-1) - centers[0].norm()).abs().max() > 0.05


def test_frames_are_kept(trained, tmp_path):
    flags = [*OFF, "--test_spacetime_video", 1, "--video_save_frames", 1]
    folder, _ = write(trained, tmp_path, *flags)
    frames = sorted((folder.path / "video_frames").iterdir())
    assert [path.name for path in frames] == ["0000.png", "0001.png", "0002.png"]
    assert imageio.imread(frames[0]).shape == (HEIGHT, WIDTH, 3)


def test_a_crop_is_of_the_reference_view_and_its_photograph(trained, tmp_path):
    flags = [*OFF, "--test_rt", 1, "--reference_view", 4]
    folder, text = write(trained, tmp_path, *flags, "--image_crop", 4, 2, 16, 12)
    for kind, whole in (("crop", "prediction"), ("crop_gt", "photograph")):
        assert str(folder.views / f"004_{kind}.png") in text
        crop, picture = (imageio.imread(folder.views / f"004_{name}.png")
                         for name in (kind, whole))
        np.testing.assert_array_equal(crop, picture[2:14, 4:20])
    for crop in ((20, 0, 16, 8), (0, 0, 0, 8), (0, 20, 8, 8)):
        with pytest.raises(UserError, match="--image_crop.*32x24"):
            write(trained, tmp_path, *flags, "--image_crop", *crop)


def test_every_stream_is_a_video_of_the_same_frames(trained, tmp_path):
    asked = []
    folder, text = write(counted(trained, asked), tmp_path, *OFF, "--test_spacetime_video", 1,
                         "--video_streams", "depth,color,mask normals shaded",
                         "--video_save_frames", 1)
    assert asked == [None] * 3                            # each frame is rendered once
    for name in ("video", "video_normals", "video_shaded", "video_depth", "video_mask"):
        assert str(folder.path / f"{name}.mp4") in text
        video = cv2.VideoCapture(str(folder.path / f"{name}.mp4"))
        assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert not list(folder.path.glob(".*"))               # nothing that waited is left
    frames = folder.path / "video_frames"
    mask, lit, depth = (imageio.imread(frames / f"0001_{name}.png")
                        for name in ("mask", "shaded", "depth"))
    assert set(np.unique(mask)) == {0, 255}
    hit = mask[..., 0] > 0
    assert lit[hit].max() > 250 and lit[hit].min() < 130 and (lit[~hit] == 255).all()
    # the front is nearer than the middle of the scale, which the unit sphere spans, but not at its
    # end: between viridis' middle (33, 145, 140) and three quarters (94, 201, 98)
    red, green, blue = depth[hit].mean(0)
    assert blue < green and 33 < red < 94 and (depth[~hit] == 255).all()
    # videos of an earlier evaluation do not stay beside those of this one
    alone, _ = write(trained, tmp_path, *OFF, "--test_spacetime_video", 1,
                     "--video_streams", "mask")
    assert alone.path == folder.path
    assert [path.name for path in alone.path.glob("*.mp4")] == ["video_mask.mp4"]
    for streams, found in (("color,alpha", "alpha"), ("none", "names nothing")):
        with pytest.raises(ConfigError, match=f"--video_streams.*{found}"):
            write(trained, tmp_path, *OFF, "--test_spacetime_video", 1, "--video_streams", streams)


def test_frames_that_a_killed_run_left_waiting_are_deleted(tmp_path):
    folder = RunFolder(tmp_path, "run")
    (folder.path / ".video_abc").mkdir(parents=True)
    (folder.path / ".video_abc" / "000000_depth.png").write_text("half")
    folder.remove_leftovers()
    assert not list(folder.path.iterdir())


def test_the_cameras_of_all_frames_are_written_and_read_again(results, trained):
    path = results[0].path / "video_poses.json"
    content = json.loads(path.read_text())
    assert content["fps"] == 10 and len(content["keyframes"]) == 3
    assert content["model_matrix"] == trained.scene.cameras.model.tolist()
    cameras = video_cameras(trained, config_of("--experiment_name", "x", *SMALL).test, DataConfig())
    again = read_keyframes(path, cameras)
    # float32 once to object units and back
    torch.testing.assert_close(again.object_to_camera, cameras.object_to_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.projection, cameras.projection, atol=1e-6, rtol=0)


def test_distances_to_a_cloud_are_scored_and_drawn(trained, tmp_path):
    """A sphere's points moved outwards by 0.1 are 0.1 from it, and a little more as they are 0.03
    apart: sqrt(0.1^2 + 0.03^2) is 0.104."""
    scene = trained.scene
    model, points = scene.cameras.model, scene.surface_points_world
    center = model[:3, 3]
    cloud = SimpleNamespace(points_obj=((points - center) @ torch.linalg.inv(model[:3, :3]).T)
                            * (RADIUS + 0.1) / RADIUS)
    near = replace(trained, cloud=cloud_of(scene, cloud))
    folder, text = write(near, tmp_path, *OFF, "--test_metrics", 1, "--test_rt", 1)
    metrics = json.loads((folder.path / "metrics.json").read_text())
    scale = scene.cameras.model_scale
    for found in (metrics["mean"], *metrics["views"].values()):
        assert 0.1 * scale < found["pcd_error"] < 0.105 * scale
    assert "cloud" in text and (folder.pictures / "cloud.png").is_file()
    assert imageio.imread(folder.views / "002_pcd_error.png").std() > 5
    curve = mean_metrics(near)
    assert curve["pcd_error_002"] == metrics["views"]["002"]["pcd_error"]
    assert "cloud" in image_grids(near) and "render_seconds" not in curve
    assert cloud_of(replace(scene, surface_points_world=None), None) is None
    truth = replace(trained, cloud=cloud_of(scene, None))
    assert mean_metrics(truth)["pcd_error"] < 0.03 * scale


def test_columns_with_the_rendered_mask(results):
    """The exact sphere: the rendered mask is the true one."""
    rows = list(csv.DictReader((results[0].path / "metrics.csv").open(newline="")))
    for row in rows:
        assert row["psnr_mask_pred"] == row["psnr"] and float(row["render_seconds"]) > 0
        assert row["pcd_error"] == "" and "lpips_mask_pred" in row
    assert "PSNR pred" not in results[1] and "cloud" not in results[1]
