"""Kill -9 in saving and in report writing, in short; tests/trust/test_kills.py has many more."""
from __future__ import annotations

import pytest
from support.fork_server import ForkServer
from support.run_results import differences
from support.tiny_runs import flags_of

pytestmark = pytest.mark.long

FLAGS = ["--num_steps", 4, "--steps_til_ckpt", 2, "--test_metrics", 1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = ForkServer(tmp_path_factory.mktemp("server"))
    yield started
    started.close()


def test_killed_runs_end_as_one_that_was_never_killed(server, tiny_scene, tiny_sphere, tmp_path):
    def run(name, kill_at=""):
        return server.run("train_sdf_ibr", flags_of(tmp_path, tiny_scene, *FLAGS, name=name,
                                                    sphere=tiny_sphere), kill_at=kill_at)

    ended = run("whole")
    assert ended.code == 0, ended.output[-2000:]
    for place in ("half:step_000004.pth", "before:metrics.json"):
        assert run("killed", place).is_killed
        assert list((tmp_path / "killed").rglob(".*")) != []
    assert run("killed").code == 0
    assert differences(tmp_path / "killed", tmp_path / "whole") == []
    assert not (tmp_path / "killed" / "run.lock").exists()
