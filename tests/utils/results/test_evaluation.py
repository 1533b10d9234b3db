"""Scores, files and tables of rendered views whose errors are known."""
import csv
import json
import logging
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from utils.errors import WriteError
from utils.results.evaluation import (
    RenderedView,
    evaluate_views,
    file_name,
    format_table,
    summarise,
    write_metrics,
)
from utils.results.lpips import LPIPS
from utils.results.metric_table import ViewMetrics
from utils.results.metrics import Chamfer

HEIGHT, WIDTH = 40, 48
KINDS = ("prediction", "photograph", "error", "mask", "mask_pred", "normals", "depth", "shaded",
         "position")


def noise_scene(num_views=3):
    """Photographs of noise with a disc as the mask."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    disc = (rows - 20) ** 2 + (columns - 24) ** 2 < 12 ** 2
    images = torch.rand(num_views, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(images=0.2 + 0.6 * images,
                           masks=disc.expand(num_views, 1, HEIGHT, WIDTH),
                           cameras=[SimpleNamespace(centers_obj=torch.tensor([[0.0, 0.0, 3.0]]))
                                    for _ in range(num_views)],
                           view_names=tuple(f"view_{v}" for v in range(num_views)))


def shown(scene, offset=0.1):
    """The photograph plus an offset inside the mask, noise outside; the mask's top half is hit."""

    def rendered(view):
        mask = scene.masks[view]
        image = torch.where(mask, scene.images[view] + offset, torch.full((), 5.0))
        hit_mask = mask.clone()
        hit_mask[:, 20:] = False
        normals = torch.zeros(3, HEIGHT, WIDTH)
        normals[2] = 1
        return RenderedView(image, hit_mask, normals, 2 * hit_mask.float(),
                            points_obj=normals * 0.5, seconds=0.25)

    return rendered


def small_lpips():
    generator = torch.Generator().manual_seed(1)
    channels, sizes = [3, 4, 4, 4, 4, 4], [11, 5, 3, 3, 3]
    kernels = [torch.randn(channels[i + 1], channels[i], size, size, generator=generator)
               for i, size in enumerate(sizes)]
    return LPIPS(kernels, [torch.zeros(4)] * 5, [torch.ones(4)] * 5)


def test_metrics_of_a_known_error():
    scene = noise_scene()
    found = evaluate_views(shown(scene), scene, [2, 0], lpips=small_lpips())
    assert list(found) == ["view_2", "view_0"]
    mask = scene.masks[0]
    share = float(mask.float().mean())
    for metrics in found.values():
        # an offset of 0.1 is 20 dB; float32
        assert metrics.psnr_foreground == pytest.approx(20.0, abs=1e-4)
        assert metrics.psnr == pytest.approx(20 - 10 * np.log10(share), abs=1e-4)
        assert metrics.mask_iou == pytest.approx(float(mask[:, :20].sum() / mask.sum()))
        assert 0 < metrics.ssim < 1 and metrics.lpips > 0
        # half of the disc is hit: the same error in half of the pixels
        share_hit = float((mask & (torch.arange(HEIGHT) < 20)[:, None]).float().mean())
        assert metrics.psnr_mask_pred == pytest.approx(20 - 10 * np.log10(share_hit), abs=1e-4)
        assert 0 < metrics.lpips_mask_pred != metrics.lpips and metrics.render_seconds == 0.25
        assert metrics.lpips_release > 0 and metrics.lpips_release != metrics.lpips


def test_lpips_sees_masked_images_in_its_standard_range():
    scene, lpips = noise_scene(1), small_lpips()
    metrics = evaluate_views(shown(scene), scene, [0], lpips=lpips)["view_0"]
    a, b = ((image.clamp(0, 1) * scene.masks[0])[None]
            for image in (scene.images[0] + 0.1, scene.images[0]))
    assert metrics.lpips == pytest.approx(float(lpips(2 * a - 1, 2 * b - 1)), rel=1e-6)
    assert metrics.lpips_release == pytest.approx(float(lpips(a, b)), rel=1e-6)


def test_pictures_of_each_view_are_written(tmp_path):
    scene = noise_scene()
    evaluate_views(shown(scene), scene, [1], tmp_path / "views")
    files = {f"view_1_{kind}.png" for kind in KINDS}
    assert {path.name for path in (tmp_path / "views").iterdir()} == files
    pictures = {kind: iio.imread(tmp_path / "views" / f"view_1_{kind}.png") for kind in KINDS}
    assert all(picture.shape == (HEIGHT, WIDTH, 3) for picture in pictures.values())
    photograph = scene.images[1].permute(1, 2, 0).numpy() * 255
    mask = scene.masks[1, 0].numpy()
    # bytes are rounded
    assert np.abs(pictures["photograph"] - photograph)[mask].max() <= 0.51
    assert (pictures["photograph"][~mask] == 255).all()       # before white, as the prediction
    assert np.abs(pictures["prediction"] - photograph - 25.5)[mask].max() <= 0.51
    assert (pictures["prediction"][~mask] == 255).all()       # D's colour there means nothing
    top = mask & (np.arange(HEIGHT) < 20)[:, None]
    assert (pictures["mask"] == 255 * mask[..., None]).all()
    assert (pictures["mask_pred"] == 255 * top[..., None]).all()
    assert (pictures["shaded"][top] == 255).all()             # normals towards the camera
    assert (pictures["position"][top] == (128, 128, 191)).all()      # (0, 0, 0.5), rounded
    error = pictures["error"]
    assert (error[~mask] == error[0, 0]).all() and (error[mask] != error[0, 0]).any()


def test_perfect_view_is_capped_and_damaged_one_left_empty(caplog):
    scene = noise_scene()
    perfect = evaluate_views(shown(scene, offset=0.0), scene, [0])["view_0"]
    assert perfect.psnr == pytest.approx(100, abs=1e-4) and perfect.lpips is None
    with caplog.at_level(logging.WARNING):
        damaged = evaluate_views(shown(scene, offset=float("nan")), scene, [0],
                                 lpips=small_lpips())["view_0"]
    assert "view_0" in caplog.text
    assert (damaged.psnr, damaged.psnr_foreground, damaged.lpips) == (None, None, None)
    assert damaged.mask_iou > 0.4


def example():
    views = {"a": ViewMetrics(20.0, 17.0, 0.9, 0.8, mask_iou=0.5),
             "b": ViewMetrics(30.0, None, 0.7, 0.6, mask_iou=1.0)}
    return summarise(views, chamfer=Chamfer(0.02, 0.04), steps=400, train_seconds=12.34,
                     wider={"psnr_all": 24.0, "psnr_train": None},
                     history=[{"psnr": float("nan")}])


def test_summary_has_means_of_what_is_available():
    metrics = example()
    expected = {"psnr": 25.0, "psnr_foreground": 17.0, "ssim": 0.8, "ssim_gaussian": 0.7,
                "lpips": None, "lpips_release": None, "mask_iou": 0.75, "psnr_all": 24.0,
                "psnr_train": None, "chamfer": 0.03}
    assert {key: metrics["mean"][key] for key in ("lpips", "lpips_release")} == {
        "lpips": None, "lpips_release": None}
    for key, value in expected.items():
        assert metrics["mean"][key] == (None if value is None else pytest.approx(value))
    assert metrics["views"]["b"]["psnr_foreground"] is None
    assert metrics["chamfer"] == pytest.approx({"accuracy": 0.02, "completeness": 0.04,
                                                "mean": 0.03, "normal_degrees": None})
    assert metrics["steps"] == 400 and metrics["history"] == [{"psnr": None}]


def test_summary_of_no_views_is_all_empty():
    metrics = summarise({})
    assert set(metrics["mean"].values()) == {None} and metrics["chamfer"] is None
    assert "n/a" in format_table(metrics)


def test_files_are_strict_json_and_csv(tmp_path):
    json_path, csv_path = write_metrics(example(), tmp_path / "run")
    text = json_path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == example()
    rows = list(csv.DictReader(csv_path.open(newline="")))
    assert [row["view"] for row in rows] == ["a", "b", "mean"]
    assert float(rows[2]["psnr"]) == 25 and rows[1]["psnr_foreground"] == ""
    assert [row["chamfer"] for row in rows[:2]] == ["", ""]
    assert float(rows[2]["chamfer"]) == pytest.approx(0.03)


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="metrics.json"):
        write_metrics(example(), tmp_path / "file")


def test_table_lines_up_and_marks_what_is_missing():
    lines = format_table(example()).splitlines()
    assert lines[0].split()[:2] == ["view", "PSNR"]
    assert lines[2].split() == ["a", "20.00", "17.00", "0.9000", "0.8000", "n/a", "n/a",
                                "0.5000"]
    assert lines[-3].split() == ["mean", "25.00", "17.00", "0.8000", "0.7000", "n/a", "n/a",
                                 "0.7500", "0.03000"]
    assert lines[-2].split() == ["all", "held-out", "24.00"]           # of training views: none
    assert lines[-1] == "400 steps, 12 s of training"
    column = lines[0].index("PSNR") + 4
    assert all(line[column - 1] in "0123456789" for line in (lines[2], lines[3], lines[-2]))


def test_view_names_cannot_leave_the_folder():
    assert file_name("../../etc/passwd") == "_.._etc_passwd"
    assert file_name("rect_001.a-b") == "rect_001.a-b"
    assert file_name("..") == "view"
    long = [file_name("ü" * 200 + end) for end in "ab"]
    assert long[0] != long[1] and all(len(f".{name}_prediction.1234567.part.png".encode()) < 256
                                      for name in long)
