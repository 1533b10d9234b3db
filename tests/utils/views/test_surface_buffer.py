"""The first trace on disk: taken for the same surface and cameras, and for no other."""
from dataclasses import replace

import pytest
import torch

from modules import SdfArchitecture
from modules_sdf import build_sdf
from utils.config.sections import DataConfig
from utils.errors import ConfigError
from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics
from utils.views.surface_buffer import SurfaceBuffer, fill_buffer, surface_key


@pytest.fixture
def cameras():
    eye = torch.tensor([[0.0, 0.0, 3.0], [3.0, 0.0, 0.0]])
    intrinsics = torch.tensor([[10.0, 0.0, 4.0], [0.0, 10.0, 3.0], [0.0, 0.0, 1.0]])
    projection = projection_from_intrinsics(intrinsics, (8, 6)).expand(2, 4, 4)
    view = look_at(eye, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    return Cameras(view, projection, torch.eye(4), (8, 6))


@pytest.fixture
def sdf():
    torch.manual_seed(0)
    return build_sdf(SdfArchitecture(hidden_dims=4, hidden_layers=0))


def fill(cameras, sdf, data):
    """A filled buffer, and how often it was traced."""
    buffer, traced = SurfaceBuffer(cameras), []

    def trace():
        traced.append(1)
        buffer.t.fill_(2.0)
        buffer.hit_mask.fill_(True)

    fill_buffer(buffer, sdf, cameras, trace, data=data)
    return buffer, len(traced)


def test_second_run_reads_what_the_first_traced(tmp_path, cameras, sdf):
    data = DataConfig(precomputed_3D_point_buffers=str(tmp_path), save_3D_point_buffers=1,
                      load_3D_point_buffers=1)
    first, traced = fill(cameras, sdf, data)
    assert traced == 1
    second, traced = fill(cameras, sdf, data)
    assert traced == 0
    assert torch.equal(first.t, second.t) and torch.equal(first.hit_mask, second.hit_mask)


@pytest.mark.parametrize("hits", [1, 10 ** 400, True, torch.ones(1, 1, 6, 8, dtype=torch.bool)])
def test_hits_of_another_kind_are_refused(cameras, hits):
    """`copy_` would take a number, or repeat the hits of one view for all."""
    buffer = SurfaceBuffer(cameras)
    with pytest.raises(ValueError, match="no mask"):
        buffer.load_state_dict({**buffer.state_dict(), "hit_mask": hits})
    assert not buffer.hit_mask.any()


def test_other_surface_or_cameras_are_traced_and_nothing_is_written_over(tmp_path, cameras, sdf):
    data = DataConfig(precomputed_3D_point_buffers=str(tmp_path), save_3D_point_buffers=1,
                      load_3D_point_buffers=1)
    fill(cameras, sdf, data)
    moved = replace(cameras, view=cameras.view + 0.01)
    assert fill(moved, sdf, data)[1] == 1
    with torch.no_grad():
        sdf.layers[-1].bias += 0.1
    assert fill(cameras, sdf, data)[1] == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_without_the_flags_nothing_is_read_or_written(tmp_path, cameras, sdf):
    data = DataConfig(precomputed_3D_point_buffers=str(tmp_path))
    assert fill(cameras, sdf, data)[1] == 1
    assert not list(tmp_path.iterdir())


def test_key_is_that_of_equal_contents(cameras, sdf):
    same = Cameras(cameras.view.clone(), cameras.projection.clone(), torch.eye(4), (8, 6))
    assert surface_key(sdf, cameras) == surface_key(sdf, same)
    assert surface_key(sdf, cameras) != surface_key(sdf, cameras.resized(16, 12))


@pytest.mark.parametrize("name", ["dtu_scan65.pth", "dtu_scan65"])
def test_a_file_of_that_name_stays_and_the_hits_lie_beside_it(tmp_path, cameras, sdf, name):
    (tmp_path / name).write_bytes(b"hits of the released code")
    data = DataConfig(precomputed_3D_point_buffers=str(tmp_path / name), save_3D_point_buffers=1,
                      load_3D_point_buffers=1)
    assert [fill(cameras, sdf, data)[1] for _ in range(2)] == [1, 0]
    assert (tmp_path / name).read_bytes() == b"hits of the released code"
    other, = (path for path in tmp_path.iterdir() if path.name != name)
    assert other.name == f"dtu_scan65_{surface_key(sdf, cameras)}.pth"


def test_a_name_of_a_file_makes_no_folder(tmp_path, cameras, sdf):
    data = DataConfig(precomputed_3D_point_buffers=str(tmp_path / "new" / "dtu.pth"),
                      save_3D_point_buffers=1)
    fill(cameras, sdf, data)
    assert [path.is_file() for path in (tmp_path / "new").iterdir()] == [True]


def test_a_place_that_cannot_be_written_is_refused_before_the_trace(tmp_path, cameras, sdf):
    (tmp_path / "file").write_text("")
    data = DataConfig(precomputed_3D_point_buffers=str(tmp_path / "file" / "buffers"),
                      save_3D_point_buffers=1)
    traced = []
    with pytest.raises(ConfigError, match="file/buffers.*save_3D_point_buffers 0"):
        fill_buffer(SurfaceBuffer(cameras), sdf, cameras, lambda: traced.append(1), data=data)
    assert not traced
