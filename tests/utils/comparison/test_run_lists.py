"""Configs, scenes and seeds as commands; running, failing, stopping and going on."""
from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.run_results import metrics_in, table_of

from utils.comparison import execution
from utils.comparison.execution import execute
from utils.comparison.run_lists import (
    ListedRun,
    command_lines,
    last_lines,
    list_runs,
    names_of,
    scored_steps,
)
from utils.config.parser import META_SECTIONS, TRAIN_SECTIONS, parse_config
from utils.errors import ConfigError, WriteError

#: A run that writes its figures, after it has noted that it ran.
WRITES = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True)
(folder / "metrics.json").write_text(json.dumps(
    {"mean": {}, "steps": int(sys.argv[2]), "train_seconds": 1.5}))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(execution, "POLL_SECONDS", 0.01)


def run_of(folder, code=WRITES, *, steps=3, wanted=3, time_limit=0.0):
    """A run whose process is a few lines of Python."""
    return ListedRun("c", "s", 0, folder, (sys.executable, "-c", code, str(folder), str(steps)),
                     wanted, time_limit)


def value_of(command, flag):
    """The value that follows a flag."""
    return command[command.index(flag) + 1]


def test_runs_are_configs_times_scenes_times_seeds(tmp_path):
    runs = list_runs(table_of(
        "--configs", "configs/nlrpp_dtu.txt", "configs/ablation_features_mean.txt", "--scenes",
        tmp_path / "one", tmp_path / "a scene, two", "--seeds", 0, 7, "--num_steps", 30,
        "--at_steps", 10, 5, "--output", tmp_path / "out", "--run_flags",
        "--device cpu --mesh_formats ply"))
    assert len(runs) == len({run.folder for run in runs}) == 8
    assert runs[3].folder == tmp_path / "out" / "runs" / "nlrpp_dtu-a_scene__two-seed7"
    command = list(runs[3].command)
    assert command[0] == sys.executable and command[2] == "train"
    config = parse_config(TRAIN_SECTIONS, command[3:])
    assert config.data.dataset_path == str(tmp_path / "a scene, two")
    assert (config.run.seed, config.run.num_steps, config.run.eval_steps) == (7, 30, (5, 10))
    assert Path(config.run.logging_root, config.run.experiment_name) == runs[3].folder
    assert config.run.device == "cpu" and config.test.mesh_formats == "ply"
    assert config.test.test_spacetime_video == 0 and config.views.feature_aggregation_method \
        == "learned"


def test_configs_with_a_meta_learned_start_have_their_own_script(tmp_path):
    flags = ["--configs", "configs/nlrpp_dtu_metaspec.txt", "configs/ablation_meta_sdf.txt",
             "configs/nlrpp_dtu.txt", "--scenes", tmp_path / "s", "--num_steps", 9]
    with pytest.raises(ConfigError, match="nlrpp_dtu_metaspec.txt.*--meta_initialization"):
        list_runs(table_of(*flags))
    whole, shape, scratch = list_runs(table_of(*flags, "--meta_initialization",
                                               tmp_path / "m.pth"))
    for run, parts in ((whole, "all"), (shape, "sdf")):
        assert run.command[2] == "specialize"
        meta = parse_config(META_SECTIONS, list(run.command[3:])).meta
        assert (meta.meta_initialization, meta.meta_parts) == (str(tmp_path / "m.pth"), parts)
    assert scratch.command[2] == "train"
    assert "--meta_initialization" not in scratch.command


@pytest.mark.parametrize("flags, words", [
    (["--scenes", "s"], "--configs has 0 entries"),
    (["--configs", "configs/demo.txt"], "--scenes has 0 entries"),
    (["--configs", "configs/demo.txt", "--scenes", "s", "--seeds", "1", "1"],
     "--seeds has 2 entries, 1 of them different"),
    (["--configs", "nowhere.txt", "--scenes", "s"], "nowhere.txt"),
    (["--configs", "configs/demo.txt", "--scenes", "a/x/s", "b/x/s"], "have one name"),
    (["--configs", "configs/demo.txt", "--scenes", "s", "--run_flags", "'"], "--run_flags"),
    (["--configs", "configs/demo.txt", "--scenes", "s", "--run_flags", "--lrr 1"], "lrr"),
    (["--configs", "configs/nlrpp_nlr.txt", "--scenes", "s"], "--num_steps or"),
])
def test_lists_that_make_no_table_are_refused(flags, words):
    with pytest.raises(ConfigError, match=words):
        list_runs(table_of(*flags))


def test_how_long_a_run_goes_on_is_the_flags_or_the_configs():
    def lengths(*flags):
        run, = list_runs(table_of("--scenes", "s", *flags))
        return run.num_steps, run.time_limit

    assert lengths("--configs", "configs/demo.txt") == (150, 0)
    assert lengths("--configs", "configs/demo.txt", "--num_steps", 9) == (9, 0)
    assert lengths("--configs", "configs/nlrpp_dtu.txt") == (3000 * 49, 0)
    assert lengths("--configs", "configs/nlrpp_nlr.txt", "--time_limit", 60) == (-1, 60)


def test_names_take_their_folder_where_they_would_be_the_same():
    assert names_of([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert names_of([Path("/a/x"), Path("/b/x"), Path("/b/y")]) == ["a_x", "b_x", "b_y"]


def test_times_are_scored_closely_at_first():
    assert scored_steps(table_of("--at_steps", 7), 400) == [7]
    steps = scored_steps(table_of("--at_steps", 7, "--at_seconds", 60), 400)
    assert {0, 1, 5, 7, 10, 125, 200, 300, 400} <= set(steps) and max(steps) == 400
    assert max(scored_steps(table_of("--at_seconds", 60), 12)) == 10
    assert len(scored_steps(table_of("--at_seconds", 60), -1)) < 60


@pytest.mark.parametrize("changes, is_finished", [
    ({}, True), ({"steps": 2}, False), ({"steps": 4}, False), ({"mean": None}, False),
    ({"steps": None}, False), ({"train_seconds": "1"}, False)])
def test_a_finished_run_has_the_right_number_of_steps(tmp_path, changes, is_finished):
    metrics_in(tmp_path, **changes)
    assert (run_of(tmp_path).metrics() is not None) == is_finished


def test_a_run_that_is_out_of_time_is_finished(tmp_path):
    metrics_in(tmp_path, steps=2, train_seconds=10.0)
    assert run_of(tmp_path, time_limit=10.0).metrics() and run_of(tmp_path, time_limit=9.0,
                                                                 wanted=-1).metrics()
    assert run_of(tmp_path, time_limit=11.0).metrics() is None
    (tmp_path / "metrics.json").write_text("{")
    assert run_of(tmp_path, time_limit=10.0).metrics() is None


def test_finished_runs_are_passed_over_and_a_failed_one_is_named(tmp_path, capsys):
    metrics_in(tmp_path / "done")
    fails = "import sys; print('error: the disk is full', file=sys.stderr); sys.exit(2)"
    runs = [run_of(tmp_path / "done", "raise SystemExit(1)"), run_of(tmp_path / "bad", fails),
            run_of(tmp_path / "short", steps=2), run_of(tmp_path / "good"),
            run_of(tmp_path / "gone", "import os; os.kill(os.getpid(), 9)")]
    assert execute(runs) == 3
    told = capsys.readouterr().err
    assert "bad: failed with exit code 2: error: the disk is full" in told
    assert "gone: failed with exit code -9" in told
    assert [run.metrics() is not None for run in runs] == [True, False, False, True, False]
    assert not (tmp_path / "done.log").exists()
    again = [runs[0], replace(runs[1], command=run_of(tmp_path / "bad").command), runs[3]]
    assert execute(again) == 0 and runs[1].metrics()


def begun(tmp_path, *flags, config="a", text="", scene="s"):
    """The run of one config, scene and seed; its output and its name are always the same."""
    path = tmp_path / config / "x.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"total_number_source_views = 4\nnum_epochs = 2\n{text}\n")
    run, = list_runs(table_of("--configs", path, "--scenes", tmp_path / "of" / scene / "s",
                              "--output", tmp_path / "out", "--num_steps", 3, *flags))
    return run


@pytest.mark.parametrize("other", [
    lambda path: begun(path, text="lr_sdf = 0.5"), lambda path: begun(path, "--run_flags",
                                                                     "--batch_size 9"),
    lambda path: begun(path, config="b", text="seed = 4"), lambda path: begun(path, scene="t")])
def test_a_run_of_other_flags_is_neither_used_nor_overwritten(tmp_path, other, capsys, caplog):
    first = begun(tmp_path)
    metrics_in(first.folder)
    first.write_digest()
    assert first.metrics() and not first.has_other_flags()
    run = other(tmp_path)
    assert run.folder == first.folder and run.metrics() is None
    words = f"ran with other flags; delete {run.folder} or use another --output"
    assert run.gap() == words
    before = sorted(run.folder.parent.iterdir())
    assert execute([run]) == 1 and words in capsys.readouterr().err
    assert command_lines([run]) == [] and words in caplog.text
    assert sorted(run.folder.parent.iterdir()) == before and begun(tmp_path).metrics()
    (run.folder / "metrics.json").unlink()
    run.folder.rmdir()
    assert run.gap() == "not begun" and len(command_lines([run])) == 1


def test_another_meta_learned_start_is_another_run(tmp_path):
    def run_from(name):
        return begun(tmp_path, "--meta_initialization", tmp_path / name,
                     text=f"meta_initialization = {tmp_path / 'a.pth'}")

    assert run_from("a.pth").digest != run_from("b.pth").digest


def test_a_longer_run_goes_on_and_its_digest_is_written_as_it_begins(tmp_path):
    run = begun(tmp_path)
    command = run_of(run.folder).command
    assert execute([replace(run, command=command)]) == 0 and run.digest_file.is_file()
    longer = begun(tmp_path, "--num_steps", 5, "--at_steps", 4)
    assert not longer.has_other_flags() and longer.metrics() is None
    run.digest_file.unlink()               # of a scheduler elsewhere
    assert run.metrics()


def test_runs_of_a_table_leave_no_points_to_each_other(tmp_path):
    run, = list_runs(table_of("--configs", "configs/nlrpp_dtu.txt", "--scenes", tmp_path))
    views = parse_config(TRAIN_SECTIONS, list(run.command[3:]))
    flags = [getattr(section, name) for section in vars(views).values()
             for name in ("load_3D_point_buffers", "save_3D_point_buffers")
             if hasattr(section, name)]
    assert flags == [0, 0]


def test_gaps_say_how_far_a_run_is(tmp_path):
    run = run_of(tmp_path / "run", wanted=300)
    assert run.gap() == "not begun"
    (run.folder / "checkpoints").mkdir(parents=True)
    assert run.gap() == "begun, no checkpoint yet"
    for step in (90, 120):
        (run.folder / "checkpoints" / f"step_{step:06d}.pth").touch()
    assert run.gap() == "at step 120 of 300"
    assert replace(run, num_steps=-1).gap() == "at step 120"
    metrics_in(run.folder, steps=400)
    assert "has 400 steps already, needed 300" in run.gap()


def test_command_lines_are_for_a_shell_and_for_what_is_not_finished(tmp_path):
    metrics_in(tmp_path / "done")
    runs = [run_of(tmp_path / "done"), run_of(tmp_path / "it's new")]
    line, = command_lines(runs)
    assert tuple(shlex.split(line)) == runs[1].command
    assert not (tmp_path / "it's new").exists()


@pytest.fixture
def hears_interrupts():
    """Python's handler of SIGINT: a process that a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_process_and_the_list(tmp_path, number):
    code = ("import pathlib, sys, time\nfolder = pathlib.Path(sys.argv[1])\n"
            "try:\n    folder.mkdir()\n    time.sleep(60)\nexcept KeyboardInterrupt:\n"
            "    (folder / 'told').touch()\n    sys.exit(130)\n")
    runs = [run_of(tmp_path / "first", code), run_of(tmp_path / "second")]

    def interrupt():
        while not runs[0].folder.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        execute(runs)
    thread.join()
    assert (tmp_path / "first" / "told").exists() and not (tmp_path / "second").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    assert runs[0].gap() == "begun, no checkpoint yet"


def test_a_process_that_does_not_listen_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "PATIENCE_SECONDS", 0.05)
    code = "import signal, time\nfor s in (2, 15):\n    signal.signal(s, signal.SIG_IGN)\n" \
           "print('deaf', flush=True)\ntime.sleep(60)"
    process = execution.subprocess.Popen([sys.executable, "-c", code],
                                         stdout=execution.subprocess.PIPE)
    process.stdout.readline()
    execution._stop(process)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def test_a_folder_that_cannot_be_written_ends_the_list(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WriteError, match="--output"):
        execute([run_of(tmp_path / "file" / "run")])


def test_last_lines_are_those_that_a_bar_showed_last(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("first\n" + "x" * 9000 + "\nrun:  1/9 [00:01\rrun:  2/9 [00:02\n\n")
    assert last_lines(path, 1) == ["run:  2/9 [00:02"] and execution._progress(path) == "2/9"
    assert last_lines(path, 2)[0] == "run:  1/9 [00:01"
    assert last_lines(tmp_path / "none.log", 1) == []
    assert execution._progress(tmp_path / "none") == ""
