"""Camera paths as files: what is written comes back, in another scene's space too."""
from __future__ import annotations

import json
import math

import pytest
import torch

from utils.geometry.camera_paths import interpolate_cameras
from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics
from utils.geometry.keyframes import PathError, read_keyframes, rigid_from_object, write_keyframes


def cameras_of(model: torch.Tensor, resolution: tuple[int, int] = (40, 30)) -> Cameras:
    """Three cameras that look at the origin of object space, off-centre."""
    eyes = torch.tensor([[3.0, 1, 0], [0, 2, 3], [-3, 0.5, 1]]).double()
    eyes = eyes @ model[:3, :3].T + model[:3, 3]
    views = look_at(eyes, model[:3, 3], torch.tensor([0.0, 1, 0]).double())
    intrinsics = torch.tensor([[50.0, 0.2, 21], [0, 52, 14], [0, 0, 1]]).double()
    return Cameras(views, projection_from_intrinsics(intrinsics, resolution).repeat(3, 1, 1), model,
                   resolution)


def model_of(scale: float) -> torch.Tensor:
    """Object to world: turned by 0.7 about the vertical axis, scaled, moved."""
    c, s = math.cos(0.7), math.sin(0.7)
    model = torch.eye(4).double()
    model[:3, :3] = scale * torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]],
                                         dtype=torch.float64)
    model[:3, 3] = torch.tensor([5.0, -2, 8])
    return model


def test_rigid_cameras_see_the_same_pixels():
    cameras = cameras_of(model_of(40.0))
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).double() - 0.5
    rigid = rigid_from_object(cameras)
    assert torch.allclose(rigid.project(points)[0], cameras.project(points)[0], atol=1e-12)
    rotation = rigid.view[:, :3, :3]
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).double(), atol=1e-12)


def test_a_path_comes_back_in_any_scene_of_the_same_object_space(tmp_path):
    cameras, other = cameras_of(model_of(40.0)), cameras_of(model_of(0.3))
    write_keyframes(tmp_path / "path.json", cameras)
    found = read_keyframes(tmp_path / "path.json", cameras)
    assert torch.allclose(found.view, cameras.view, atol=1e-9)
    assert torch.equal(found.projection, cameras.projection)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).double() - 0.5
    elsewhere = read_keyframes(tmp_path / "path.json", other)
    assert torch.allclose(elsewhere.project(points)[0], cameras.project(points)[0], atol=1e-9)


def test_other_shapes_of_pictures_keep_the_vertical_angle(tmp_path):
    cameras = cameras_of(model_of(1.0))
    write_keyframes(tmp_path / "path.json", cameras)
    wide = read_keyframes(tmp_path / "path.json", cameras.resized(80, 30))
    assert torch.equal(wide.projection[:, 1], cameras.projection[:, 1])
    assert torch.allclose(wide.projection[:, 0], cameras.projection[:, 0] / 2)


def test_a_path_passes_its_keyframes_in_their_order():
    """A tour would begin at an outermost camera: here the first is the middle one."""
    cameras = cameras_of(model_of(1.0))[[1, 0, 2]]
    path = interpolate_cameras(cameras, 201, pivot_obj=(0, 0, 0), is_in_order=True)
    assert torch.allclose(path.view[[0, -1]], cameras.view[[0, 2]], atol=1e-9)
    gaps = (path.centers_world - cameras.centers_world[1]).norm(dim=-1)
    assert gaps.min() < 0.05 and 10 < gaps.argmin() < 190


@pytest.mark.parametrize("change, message", [
    (lambda content: content.update(format="else"), "not a camera path"),
    (lambda content: content.update(version=2), "version 2"),
    (lambda content: content.update(keyframes=[]), "1 to 1,000"),
    (lambda content: content["keyframes"].append(3), "need a table"),
    (lambda content: content["keyframes"][0].update(resolution=[0, 30]), "width and height"),
    (lambda content: content["keyframes"][0].update(projection=[[1]]), "4 rows of 4"),
    (lambda content: content["keyframes"][0].update(object_to_camera=[[2] * 4] * 4), "no rotation"),
    (lambda content: content["keyframes"][0]["projection"][3].reverse(), "no perspective"),
    (lambda content: content["keyframes"][0]["projection"][0].insert(0, 1e400), "4 rows of 4"),
])
def test_other_files_are_refused_by_name(change, message, tmp_path):
    cameras, path = cameras_of(model_of(1.0)), tmp_path / "path.json"
    write_keyframes(path, cameras)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(PathError, match=message) as raised:
        read_keyframes(path, cameras)
    assert "path.json" in str(raised.value)
