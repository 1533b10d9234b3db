"""The fuzzed readers of checkpoints, configs, tables and whatever else a run writes or reads."""
from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from support import scene_files
from trust.reading import Reader

from modules import SdfArchitecture
from modules_sdf import build_sdf
from stages.gpu_figures.measuring import earlier
from utils.benchmarking.figures_page import figures_page
from utils.checkpoints.checkpoint import open_checkpoint
from utils.checkpoints.manifest import (
    Entry,
    describe,
    find_entry,
    obtain,
    read_manifest,
    sha256_of,
)
from utils.checkpoints.storage import load_checkpoint, load_state, save_checkpoint
from utils.comparison.run_lists import ListedRun
from utils.comparison.side_by_side import compare, comparison_grid, read_run
from utils.comparison.tables import as_csv, as_json, gather
from utils.config.parser import TRAIN_SECTIONS, parse_config
from utils.config.saving import config_to_dict, save_config
from utils.config.tool_sections import RunTableConfig
from utils.errors import UserError
from utils.files.pickles import load_pickled_npy, load_restricted_pickle
from utils.results.lpips import build_lpips
from utils.runs.progress import stored_progress


def _sdf() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_sdf(SdfArchitecture(hidden_dims=4, hidden_layers=1))


def _make_checkpoints(folder: Path) -> None:
    state = _sdf().state_dict()
    save_checkpoint(folder / "run.pth", {
        "format": 1, "task": {"model": {f"sdf.{k}": v for k, v in state.items()}}, "step": 3,
        "random": (1, "x", [1, 2, 3]), "seconds": 1.5, "curve": [{"step": 1, "loss": 0.5}],
        "config": {"run": {"seed": 0, "experiment_name": "x"}}})
    save_checkpoint(folder / "net.pth", {"sdf": state, "error": {"mean_error": 0.1}})
    torch.save({f"decoder_sdf.net.net.{i}.0.weight": torch.ones(2, 2) for i in range(3)},
               folder / "release.pth")
    torch.save(dict(state), folder / "old.pth", _use_new_zipfile_serialization=False)


def _read_checkpoint(path: Path) -> None:
    load_checkpoint(path)
    stored = open_checkpoint(path).networks
    _ = stored.encoder_kind, stored.convolution_of("encoder")
    for network, state in stored.tensors.items():
        load_state(_sdf(), state, network, strict=False)


def _make_pickles(folder: Path) -> None:
    content = {**scene_files.meta(0), "name": "scene", "pair": (1, 2.5), "raw": b"\0\xff",
               "scalar": np.float64(2.5), "deep": {"a": [1, {"b": np.arange(3)}]}}
    for protocol in (0, 2, 4, 5):
        (folder / f"p{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))
    scene_files.save_dict(folder / "dict.npy", content)
    with open(folder / "plain.bin", "wb") as file:
        np.save(file, np.arange(12.0).reshape(3, 4))


def _read_pickle(path: Path) -> None:
    if path.suffix == ".pkl":
        load_restricted_pickle(path)
    load_pickled_npy(path)                         # takes bare pickles too


def _make_lpips(folder: Path) -> None:
    channels, sides = [3, 2, 3, 2, 3, 2], (11, 5, 3, 3, 3)
    rng = np.random.default_rng(0)
    trunk = {f"Conv_{i}": {
        "kernel": rng.normal(size=(side, side, channels[i], channels[i + 1])).astype(np.float32),
        "bias": np.zeros(channels[i + 1], np.float32)} for i, side in enumerate(sides)}
    heads = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.ones((1, 1, channels[i + 1], 1))}}
             for i in range(5)}
    (folder / "a.ckpt").write_bytes(pickle.dumps({"AlexNet_0": trunk, **heads}))
    state = {f"net.slice{i + 1}.{i}.{name}": torch.from_numpy(np.ascontiguousarray(
        layer["kernel"].transpose(3, 2, 0, 1) if name == "weight" else layer["bias"]))
        for i, layer in enumerate(trunk.values()) for name in ("weight", "bias")}
    state |= {f"lin{i}.model.1.weight": torch.ones(1, channels[i + 1], 1, 1) for i in range(5)}
    torch.save(state, folder / "b.pth")


def _make_released(folder: Path) -> None:
    """A checkpoint of the released code, and the file of its optimiser, which tells the step."""
    torch.save({f"decoder_sdf.net.net.{i}.0.weight": torch.ones(2, 2) for i in range(3)},
               folder / "model_current.pth")
    adam = {"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(2)}},
            "param_groups": [{"lr": 1e-4, "params": [0]}]}
    torch.save({"optimizer": adam, "epoch": 2, "total_steps": 98}, folder / "optim_current.pth")


def _read_released(folder: Path) -> None:
    stored_progress(open_checkpoint(folder / "model_current.pth"), 49)


def _make_figures(folder: Path) -> None:
    curve = [{"step": 1, "seconds": 0.5, "psnr": 20.0}, {"step": 9, "seconds": 4.5, "psnr": 25.0}]
    how = {"seconds": 3.5, "ended": "in time"}
    (folder / "figures.json").write_text(json.dumps({
        "environment": {"device": "a", "date": "b", "command": "c"},
        "tests": {"trace": {"worst": 1e-6}, **how},
        "quality": {"hull": {"curve": curve, "seconds_to": {"25": 4.5}, "resolution": [32, 24],
                             "steps_per_second": 2.0}, "none": {"failed": "so"}, **how},
        "render": {"sdf": {"seconds": 0.1, "parts": {"trace": 0.05}}, **how},
        "profile": {"step": {"kernels": [{"name": "k", "calls": 3, "ms": 0.5}]}, **how}}))


def _read_figures(folder: Path) -> None:
    figures_page({"environment": {"device": "a", "date": "b", "command": "c"}, **earlier(folder)})


def _make_config(folder: Path) -> None:
    save_config(parse_config(TRAIN_SECTIONS, ["--experiment_name", "x"]), folder / "run.txt")
    (folder / "flags.txt").write_text(
        "--experiment_name\nx\n--train_views\n1,2\n--lr\n1e-4\n--occ_threshold\n1e-3,1e-4\n"
        "--occ_threshold_steps\n50\n--load_im_scale=0.5\n--model_hidden_dims_sdf\n16\n")


def _read_config(path: Path) -> None:
    if path.name == "flags.txt":
        argv = path.read_text(encoding="utf-8", errors="replace").strip("\n").split("\n")
    else:
        argv = ["--experiment_name", "x", "--config_filepath", str(path)]
    config_to_dict(parse_config(TRAIN_SECTIONS, argv))


def _make_manifest(folder: Path) -> None:
    inner = folder / "checkpoints"
    inner.mkdir()
    (inner / "source.bin").write_bytes(b"weights" * 9)
    entries = [Entry(f"w{i}.pth", "a test", sha256_of(inner / "source.bin"), 63, address, "none",
                     "MIT") for i, address in enumerate(("", "source.bin"))]
    (inner / "manifest.json").write_text(json.dumps({"files": [vars(e) for e in entries]}))


def _read_manifest(folder: Path) -> None:
    path = folder / "checkpoints" / "manifest.json"
    entries = read_manifest(path)
    describe(entries, path)
    for name, entry in entries.items():
        find_entry(entries, name)
        if "://" not in entry.address:             # nothing is asked of the network here
            try:
                obtain(replace(entry, name=name), output=folder / "fetched", manifest=path)
            except UserError:
                pass
    shutil.rmtree(folder / "fetched", ignore_errors=True)


def _make_tables(folder: Path) -> None:
    (folder / "views").mkdir()
    (folder / "metrics.json").write_text(json.dumps({
        "mean": {"psnr": 25.0, "ssim": 0.9, "lpips": None}, "views": {"004": {"psnr": 25.0}},
        "steps": 30, "train_seconds": 12.4, "device": "cpu"}))
    (folder / "curve.csv").write_text("step,seconds,loss_total,psnr\n0,0.0,,10.5\n5,1.0,0.3,\n"
                                      "10,2.0,0.3,14.0\n30,6.0,0.2,25.0\n")
    for kind in ("photograph", "prediction", "error"):
        imageio.imwrite(folder / "views" / f"004_{kind}.png", np.full((12, 16, 3), 40, np.uint8))


def _read_tables(folder: Path) -> None:
    table = RunTableConfig(at_steps=(10,), at_seconds=(3.0,))
    run = ListedRun("a", "b", 0, folder, (), 30, 0.0, "")
    found = gather([run], table)
    as_csv(found), as_json(found)
    runs = [read_run(folder), read_run(folder)]
    compare(runs)
    comparison_grid(runs)


RUN_READERS = (
    Reader("checkpoint", _make_checkpoints, _read_checkpoint, is_single=True),
    Reader("released", _make_released, _read_released),
    Reader("pickle", _make_pickles, _read_pickle, is_single=True),
    Reader("lpips", _make_lpips, lambda path: build_lpips(str(path)), is_single=True),
    Reader("config", _make_config, _read_config, is_single=True),
    Reader("manifest", _make_manifest, _read_manifest),
    Reader("tables", _make_tables, _read_tables),
    Reader("figures", _make_figures, _read_figures))
