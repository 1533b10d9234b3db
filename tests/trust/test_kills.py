"""Kill -9 at random moments and at the worst places: the same command ends as if never killed.

    python -m pytest tests/trust/test_kills.py -m trust -s

Each run is a forked child that is sent SIGKILL. What it left must be good for the same command,
which must end with the weights of an undisturbed run to the bit, and with the same result files.
"""
from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from support.fork_server import ForkServer
from support.run_results import differences
from support.tiny_runs import FULL, flags_of

pytestmark = pytest.mark.trust

SEED = 0
#: Every so many random kills the second start is killed as well.
KILLED_TWICE = 3
STEPS = ["--num_steps", 8, "--steps_til_ckpt", 2, "--eval_interval", 4]
RESULTS = ["--test_rt", 1, "--test_plot", 1, "--test_cameras", 1, "--test_metrics", 1,
           "--test_spacetime_video", 1, "--mesh_formats", "ply,obj,glb", "--steps_til_pictures", 4,
           "--video_save_frames", 1, *FULL]
META = ["--num_meta_steps", 2, "--load_pcd", 0, "--num_steps", 6, "--steps_til_ckpt", 2,
        "--meta_batch_size", 2]
PAIRS = ("--crop_size 24x16 --precision fp32 --model_image_encoder_depth 1 --num_threads 1 "
         "--batch_size 2 --num_steps 6 --steps_til_ckpt 2 --steps_til_pictures 0 "
         "--device cpu").split()
#: Places in saving and report writing, of each script.
SAVING = ["half:step_000004.pth", "before:step_000004.pth", "after:step_000004.pth",
          "call:utils.files.atomic._sync_folder#2", "call:utils.runs.loop.keep_latest#3"]
PLACES = {
    "train_sdf_ibr": [
        "half:step_000002.pth", *SAVING, "before:config.txt", "before:step_000008.pth",
        "after:step_000008.pth", "call:stages.results.writing.extract_mesh", "before:mesh.glb",
        "before:metrics.json", "before:metrics.csv", "before:curve.csv", "before:slices.png",
        "call:stages.results.video.to_uint8#2", "before:video.mp4", "before:report.html",
        "after:report.html"],
    "train_sdf_ibr_meta": [*SAVING, "before:meta_start.pth", "half:meta_start.pth",
                           "before:curve.csv"],
    "pretrain_features": [*SAVING, "half:encdec.pth", "before:metrics.json", "before:pairs.png"]}
RANDOM = {"train_sdf_ibr": 15, "train_sdf_ibr_meta": 10, "pretrain_features": 5}


@dataclass
class Case:
    """One script with its flags, and the undisturbed run of it."""

    script: str
    flags: list[str]
    folder: Path
    server: ForkServer
    seconds: float = 0.0
    rows: list[str] = field(default_factory=list)

    @property
    def whole(self) -> Path:
        return self.folder / "logs" / "whole"

    def run(self, name: str, **kill: object) -> object:
        return self.server.run(self.script, [*self.flags, "--experiment_name", name], **kill)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = ForkServer(tmp_path_factory.mktemp("server"))
    yield started
    started.close()


@pytest.fixture(params=list(RANDOM))
def case(request, server, tmp_path, tiny_scene, tiny_scenes, tiny_sphere):
    flags = {
        "train_sdf_ibr": flags_of(tmp_path / "logs", tiny_scene, *STEPS, *RESULTS,
                                  sphere=tiny_sphere),
        "train_sdf_ibr_meta": flags_of(tmp_path / "logs", tiny_scenes, *META, sphere=tiny_sphere),
        "pretrain_features": ["--logging_root", tmp_path / "logs", *PAIRS]}[request.param]
    made = Case(request.param, flags, tmp_path, server)
    server.folder = tmp_path
    ended = made.run("whole")
    assert ended.code == 0, ended.output[-2000:]
    made.seconds = ended.seconds
    print(f"\n{made.script}: {made.seconds:.1f} s undisturbed\n"
          "  killed after, or at                                    last checkpoint, end")
    return made


def recover(case: Case, name: str, *kills: dict) -> str:
    """Start the command once for each kill, then to its end; what came of it, '' if all is well."""
    deaths = [case.run(name, **kill) for kill in kills]
    folder = case.folder / "logs" / name
    left = sorted(path.stem for path in (folder / "checkpoints").glob("step_*.pth"))
    ended = case.run(name)
    found = [f"exit code {ended.code}: {ended.output[-300:]}"] if ended.code else \
        differences(folder, case.whole)
    moments = ", ".join(kill.get("kill_at") or f"{kill['kill_after']:.3f} s" for kill in kills)
    state = "killed" if all(death.is_killed for death in deaths) else "over before"
    case.rows.append(f"  {moments:42}{state:13}{left[-1] if left else 'no checkpoint':15}"
                     f"{found[0] if found else 'the same'}")
    print(case.rows[-1], flush=True)
    shutil.rmtree(folder)
    return "; ".join(found[:5])


def test_kills_at_random_moments(case):
    moments = np.random.default_rng(SEED).uniform(0, case.seconds, (RANDOM[case.script], 2))
    problems = []
    for number, (first, second) in enumerate(moments):
        kills = [{"kill_after": first}, {"kill_after": second}]
        kills = kills if number % KILLED_TWICE == 0 else kills[:1]
        problems.append(recover(case, f"random_{number}", *kills))
    assert not any(problems), problems
    assert sum(" killed " in row for row in case.rows) >= 0.7 * len(case.rows)


def test_kills_while_files_are_written(case):
    """Here every kill must happen: a place that is never reached tests nothing."""
    problems = [recover(case, f"place_{number}", {"kill_at": place})
                for number, place in enumerate(PLACES[case.script])]
    assert not any(problems), problems
    assert all(" killed " in row for row in case.rows)
