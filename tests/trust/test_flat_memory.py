"""Memory stays flat: 5,000 steps of one scene, and 200 scenes of a pool within its bound.

    python -m pytest tests/trust/test_flat_memory.py -m trust -s

Each is a process of its own, whose resident memory is drawn into TRUST_FOLDER (else logs/trust).
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.memory_plots import MIB, ROOT, draw, growth, plots_folder
from support.tiny_runs import flags_of

from data_processing.scenes.writing import write_scene
from data_processing.synthetic.scenes import make_scene

pytestmark = pytest.mark.trust

#: A window holds two checkpoints, as memory that one of them took may stay until the next.
STEPS, WARM_UP, WINDOW = 5000, 1000, 1000
#: A step that kept the smallest of its tensors, the (2, 1, 24, 32) hits of its targets, would
#: grow by 1,536 bytes; malloc's own drift is an order below that.
BYTES_A_STEP = 500
SCENES, POOL_MIB, TURNS = 200, 8, 10
#: In nine turns malloc's stock goes up and down by 4 MiB; a pool that kept one scene in 200 visits
#: would grow by 6.3 MiB, one that kept all of them by 1.2 GiB.
BYTES_A_VISIT = 3500

#: A training run with one look at the memory every 10 steps.
RUN = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from support.memory_plots import resident_bytes
from support.tiny_runs import call
from training import SceneTrainer
step, rows = SceneTrainer.train_step, []

def watched(self, number):
    if number % 10 == 0:
        rows.append((number, resident_bytes()))
    return step(self, number)

SceneTrainer.train_step = watched
call("train_sdf_ibr", *json.loads(sys.argv[3]))
print(json.dumps(rows))
"""

#: Turns through a pool as meta-training makes them, the next scene read while one is in use; all
#: pixels that are alive are counted at each read.
POOL = """
import json, sys, weakref
sys.path[:0] = sys.argv[1:3]
import torch
from data_processing import scene_pool
from support.memory_plots import resident_bytes
from support.tiny_runs import meta_config_of
sizes, most, rows = {}, 0, []

def watching(read):
    def reading(*args, **options):
        global most
        found = read(*args, **options)
        for pixels in (found.images, found.masks):
            sizes[id(pixels)] = pixels.nbytes
            weakref.finalize(pixels, sizes.pop, id(pixels))
        most = max(most, sum(list(sizes.values())))
        return found
    return reading

for name in ("load_scene", "views_of"):
    setattr(scene_pool, name, watching(getattr(scene_pool, name)))
flags, turns = json.loads(sys.argv[3])
config = meta_config_of(*flags)
pool = scene_pool.open_pool(config.data, config.meta)
generator = torch.Generator().manual_seed(0)
order = torch.cat([torch.randperm(len(pool), generator=generator) for _ in range(turns)]).tolist()
for number, (index, following) in enumerate(zip(order, [*order[1:], order[0]])):
    images = pool[index].views.images
    pool.read_ahead(following)
    images.sum()
    del images
    rows.append((number + 1, resident_bytes(), most))
print(json.dumps(rows))
"""


def measured(code, given, folder):
    """The rows that a program prints last; it is given flags of a script, or more, as JSON."""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(ROOT / "tests"), json.dumps(given)],
        cwd=folder, text=True, stdout=subprocess.PIPE, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"})
    return np.array(json.loads(ended.stdout.splitlines()[-1]))


def test_five_thousand_steps_in_flat_memory(tiny_scene, tiny_sphere, tmp_path):
    """With checkpoints, scores and picture sheets, which come every 500 steps."""
    flags = flags_of(tmp_path, tiny_scene, "--num_steps", STEPS, "--steps_til_ckpt", 500,
                     "--eval_interval", 500, "--steps_til_pictures", 500, sphere=tiny_sphere)
    steps, resident = measured(RUN, flags, tmp_path).T
    assert len(steps) == STEPS // 10
    draw(plots_folder() / "memory_5000_steps.png", steps, {"resident": resident}, first=WARM_UP,
         xlabel="step", title=f"{STEPS:,} steps on 6 views of 32x24")
    lost = growth(steps, resident, WARM_UP, WINDOW)
    print(f"\n{STEPS:,} steps: {resident[-1] / MIB:.1f} MiB at the end, "
          f"{resident[steps >= WARM_UP].max() / MIB:.1f} at most, {lost:+.0f} bytes a step "
          f"after step {WARM_UP:,}")
    assert lost < BYTES_A_STEP


def test_two_hundred_scenes_within_the_bound(tmp_path):
    """Ten turns through scenes that hold more than ten times what may be in memory."""
    first = tmp_path / "first"
    write_scene(make_scene("blobs", 0, num_views=6, resolution=(112, 84), supersampling=1,
                           num_points=100), first, "processed")
    for number in range(SCENES):
        shutil.copytree(first, tmp_path / "many" / f"{number:03d}", copy_function=os.link)
    total = SCENES * 6 * 112 * 84 * 13
    assert total > 10 * POOL_MIB * MIB
    flags = flags_of(tmp_path, tmp_path / "many", "--scene_memory_mb", POOL_MIB, "--load_pcd", 0)
    visits, resident, alive = measured(POOL, [flags, TURNS], tmp_path).T
    draw(plots_folder() / "memory_200_scenes.png", visits,
         {"resident": resident, "scenes' pixels, the most so far": alive}, first=SCENES,
         xlabel="scenes visited", title=f"{SCENES} scenes of {total / SCENES / MIB:.2f} MiB, "
                                        f"{POOL_MIB} MiB allowed")
    lost = growth(visits, resident, SCENES, SCENES)
    print(f"\n{SCENES} scenes of {total / MIB:.0f} MiB in all, {POOL_MIB} MiB allowed: "
          f"{alive.max() / MIB:.2f} MiB of pixels at most, {resident[-1] / MIB:.1f} MiB resident "
          f"at the end, {lost:+.0f} bytes a visit after the first turn")
    assert 0.7 * POOL_MIB * MIB < alive.max() <= POOL_MIB * MIB
    assert lost < BYTES_A_VISIT
