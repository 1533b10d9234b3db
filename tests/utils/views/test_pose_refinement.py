"""Refined cameras: their geometry, their gradients, and that they find back to the truth."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.ball_scene import ball_cameras, ball_scene
from support.tiny_runs import config_of, differing, final_state, flags_of
from support.trainers import STEPS, trainer_of
from torch import nn

from data_processing.scenes.opening import open_scene, perturbed
from loss_functions import ShapeSupervision
from modules import AggregationMLP
from modules_sdf import BlendSettings, ImageBasedModel
from scheduler import StepPlan
from sdf_rendering import ReferenceTracer
from stages import scene as scene_run
from stages.evaluation import trained_scene_of
from training import SceneTrainer
from utils.checkpoints.storage import checkpoints_in
from utils.config.sections import LossConfig
from utils.errors import CheckpointError
from utils.geometry.cameras import rotations
from utils.geometry.rays import TraceResult
from utils.views.pose_refinement import PoseRefinement, PoseTrainer, moved_along
from utils.views.step_views import ViewsInTraining
from utils.views.target_crops import CropSampler
from utils.views.training_views import TrainingViews, ViewSampler, views_of, with_poses

RADIUS = 0.6


class Ball(nn.Module):
    """|x| - RADIUS."""

    def __init__(self) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(RADIUS, dtype=torch.float64), requires_grad=False)

    def forward(self, points):
        return points.norm(dim=-1) - self.radius


class BallTracer(ReferenceTracer):
    """Exact hits, so that differences of losses are those of the cameras alone."""

    def trace(self, sdf, rays):
        with torch.no_grad():
            middle = -(rays.origins_obj * rays.dirs_obj).sum(-1)
            axis = rays.origins_obj + middle[:, None] * rays.dirs_obj
            inside = RADIUS ** 2 - axis.square().sum(-1)
            return TraceResult(middle - inside.clamp(min=0).sqrt(), inside > 0)


def ball_trainer(*, plan, given=None, num_views=5, resolution=(48, 36), crops=None):
    """A trainer of plain colours on the exact ball, float64; and the true cameras."""
    how = {"num_views": num_views, "resolution": resolution, "arrangement": "nlr"}
    scene, truth = ball_scene(RADIUS, **how), ball_cameras(**how)
    model = ImageBasedModel(Ball(), nn.Identity(), AggregationMLP(3).double(),
                            decoder=nn.Identity(), settings=BlendSettings("rgb", "mean"))
    cameras = truth if given is None else given(truth)
    views = TrainingViews(scene.images.double(), scene.masks, cameras, scene.view_names)
    sampled = ViewsInTraining(views, ViewSampler(cameras, -1, 3), crops,
                              refiner=PoseTrainer(cameras))
    shape = ShapeSupervision(LossConfig(color_loss="l2", opt_sdf_eikonal=0), num_points=1)
    trainer = SceneTrainer(model, sampled, tracer=BallTracer(200), shape=shape,
                           plan=lambda step: plan, generator=torch.Generator().manual_seed(0))
    return trainer, truth


def plan_of(*, train_shape, rate=1e-3):
    return StepPlan(train_shape, alpha=50.0, occ_threshold=1e-3, lr_sdf=0.0, lr=0.0,
                    lr_cameras=rate)


@pytest.fixture
def cameras():
    """Five cameras in a row; object space is turned, scaled and shifted in the world."""
    model = torch.eye(4, dtype=torch.float64)
    model[:3, :3] = 2.5 * rotations(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))
    model[:3, 3] = torch.tensor([0.2, 0.1, -0.3])
    return in_world(ball_cameras(5, arrangement="nlr"), model)


def in_world(cameras, model):
    """Cameras of object space as those of a world that is 2.5 times as large."""
    view = cameras.view @ torch.linalg.inv(model)
    view[:, :3] *= 2.5                                     # world units in camera space too
    return replace(cameras, model=model, view=view)


def test_rotations_turn_about_their_axis():
    """A quarter turn about z takes x to y; any axis stays where it is."""
    quarter = rotations(torch.tensor([0.0, 0.0, torch.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(quarter @ torch.eye(3).double()[0], torch.eye(3).double()[1])
    axis = torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64)
    torch.testing.assert_close(rotations(axis) @ axis, axis)
    assert torch.equal(rotations(torch.zeros(2, 3)), torch.eye(3).expand(2, 3, 3))
    assert torch.autograd.gradcheck(rotations, torch.zeros(1, 3).double().requires_grad_(True))


def test_nothing_moves_at_the_start(cameras):
    assert torch.equal(PoseRefinement(cameras).refined().view, cameras.view)


def test_turns_keep_the_origin_in_place_and_shifts_move_it(cameras):
    poses = PoseRefinement(cameras)
    with torch.no_grad():
        poses.turn += torch.tensor([0.02, -0.01, 0.03])
    before = cameras.object_to_camera[:, :3, 3]
    turned = poses.refined()
    torch.testing.assert_close(turned.object_to_camera[:, :3, 3], before)
    assert (turned.view - cameras.view).abs().amax((1, 2)).gt(1e-3).tolist() == [False] + [True] * 4
    with torch.no_grad():
        poses.turn.zero_()
        poses.shift += torch.tensor([0.01, 0.0, 0.0])
    moved = poses.refined().object_to_camera[:, :3, 3] - before
    expected = 0.01 * before.norm(dim=-1) * torch.tensor([0.0, 1, 1, 1, 1])      # the first stays
    torch.testing.assert_close(moved.norm(dim=-1), expected)
    torch.testing.assert_close(moved[:, 0], expected)                 # along the camera's x


def test_other_cameras_follow_a_similarity_of_all(cameras):
    """Refined cameras that see S x where the given ones saw x: so must all others."""
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = 1.07 * rotations(torch.tensor([0.05, 0.1, -0.02], dtype=torch.float64))
    motion[:3, 3] = torch.tensor([0.04, -0.02, 0.03])
    back = cameras.model @ torch.linalg.inv(motion) @ torch.linalg.inv(cameras.model)
    view = cameras.view @ back
    view[:, :3] *= 1.07
    refined = replace(cameras, view=view)
    others = in_world(ball_cameras(7, arrangement="sphere"), cameras.model)
    moved = moved_along(others, cameras, refined)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)).double() - 0.5
    points_moved = points @ motion[:3, :3].T + motion[:3, 3]
    torch.testing.assert_close(moved.project(points_moved)[0], others.project(points)[0])
    identity = moved.view[:, :3, :3] @ moved.view[:, :3, :3].mT
    torch.testing.assert_close(identity, torch.eye(3).double().expand(7, 3, 3))
    torch.testing.assert_close(moved_along(others, cameras, cameras).view, others.view)


@pytest.mark.parametrize("train_shape, tolerance", [(True, 5e-3), (False, 1e-5)])
@pytest.mark.parametrize("is_cropped", [True, False])
def test_gradients_are_those_of_finite_differences(train_shape, tolerance, is_cropped):
    """Central differences. Samples that begin or cease to count make the loss jump; a step of 1e-8
    meets none of them, and float64 sums leave 1e-8 of the slope. The soft mask's points stay at
    their distance along the ray, which is exact at the least of the SDF: 200 samples are near it.
    """
    plan = plan_of(train_shape=train_shape)
    trainer, _ = ball_trainer(
        plan=plan, crops=CropSampler((48, 36), (24, 28)) if is_cropped else None)
    poses = trainer.refiner.poses
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():                          # a start that is not right, so that losses slope
        for value in poses.parameters():
            value += 0.01 * torch.randn(value.shape, generator=generator)
    trainer.losses(plan)
    traced = trainer.buffer.state_dict()

    def total():
        trainer.buffer.load_state_dict(traced)
        trainer.generator.manual_seed(7)
        return trainer.losses(plan)["total"]

    found = torch.autograd.grad(total(), list(poses.parameters()))
    for value, slopes in zip(poses.parameters(), found, strict=True):
        assert not slopes[0].any()                                     # the first view is fixed
        for place in ((1, 0), (2, 1), (3, 2), (4, 0), (4, 1)):
            sides = []
            for step in (1e-8, -1e-8):
                with torch.no_grad():
                    value[place] += step
                sides.append(total().item())       # with its graph, as without it hits stand still
                with torch.no_grad():
                    value[place] -= step
            expected = (sides[0] - sides[1]) / 2e-8
            assert abs(slopes[place] - expected) < tolerance * slopes.abs().max()
    assert all(slopes.abs().max() > 1e-3 for slopes in found)


@pytest.mark.parametrize("train_shape", [True, False])
def test_a_disturbed_camera_moves_back(train_shape):
    """One of five cameras is off by a degree and a hundredth, the surface is known."""
    def spoilt(truth):
        view = truth.view.clone()
        view[2] = perturbed(truth, 0.017, 1, shifts=0.01).view[2]
        return replace(truth, view=view)

    trainer, truth = ball_trainer(plan=plan_of(train_shape=train_shape), given=spoilt,
                                  resolution=(36, 28))

    def errors():
        """Of where the cameras see eight points about the surface, in pixels of 36."""
        points = 0.5 * torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
        moved = trainer.refiner.poses.refined()
        return 18 * (moved.project(points)[0] - truth.project(points)[0]).norm(dim=-1).mean(-1)

    before = errors()
    for step in range(40):
        trainer.train_step(step)
    after = errors()
    assert before[2] > 0.5 and before[[0, 1, 3, 4]].max() < 1e-9
    assert after[2] < 0.35 * before[2] and after[0] < 1e-9
    assert after.max() < 0.35 * before[2]


REFINE = ["--refine_cameras", 1, "--shape_warmup_steps", 1, "--lr_cameras", 1e-3]


@pytest.fixture
def train(tiny_scene, tiny_sphere, tmp_path, monkeypatch):
    """Trains without results; gives the run's folder."""
    monkeypatch.setattr(scene_run, "write_results", lambda *args, **kwargs: "")

    def train(name, *flags):
        scene_run.train_scene(config_of(*flags_of(tmp_path, tiny_scene, *STEPS, *flags, name=name,
                                                  sphere=tiny_sphere)))
        return tmp_path / name
    return train


def test_refined_cameras_are_resumed_to_the_bit_and_given_by_the_checkpoint(train, tiny_scene):
    state = final_state(train("whole", *REFINE, "--num_steps", 6))["task"]
    part = train("part", *REFINE, "--num_steps", 4)
    assert checkpoints_in(part / "checkpoints")[-1].name == "step_000004.pth"
    train("part", *REFINE, "--num_steps", 6, "--load_model_poses", 1)
    assert differing(state, final_state(part)["task"]) == []
    scene, split = open_scene(config_of(*flags_of("x", tiny_scene)).data)
    views = views_of(scene, split.train, "cpu")
    refined = with_poses(views, state).cameras
    moves = (refined.view - views.cameras.view).abs().amax((1, 2))
    assert moves[0] == 0 and moves[1:].min() > 1e-4


def test_runs_with_and_without_refinement_go_on_as_they_should(train, tiny_scene):
    fixed = train("fixed", "--num_steps", 2)
    with pytest.raises(CheckpointError, match="without --refine_cameras"):
        train("fixed", *REFINE, "--num_steps", 3)
    refined = train("refined", *REFINE, "--num_steps", 4)
    before = final_state(refined)["task"]["cameras"]["view"]
    train("refined", "--num_steps", 5)                     # they stay where they have come to
    assert torch.equal(final_state(refined)["task"]["cameras"]["view"], before)
    assert "poses" not in final_state(fixed)["task"]


def test_results_are_seen_by_refined_cameras(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere, *REFINE)
    scene, split = open_scene(config_of(*flags_of("x", tiny_scene)).data)
    with torch.no_grad():
        trainer.refiner.poses.shift += 0.01
    shown = trained_scene_of(trainer, scene, split, step=1)
    train = list(split.train)
    refined = trainer.current_views().cameras
    assert torch.equal(shown.scene.cameras.view[train], refined.view)
    other = moved_along(scene.cameras, scene.cameras[train], refined).view[list(split.test)]
    assert torch.equal(shown.scene.cameras.view[list(split.test)], other)
    again = trainer_of(tiny_scene, tiny_sphere)            # an evaluation without the flag
    again.load_cameras(trainer.state_dict())
    shown_again = trained_scene_of(again, scene, split, step=1)
    assert torch.equal(shown_again.scene.cameras.view, shown.scene.cameras.view)
    plain = trainer_of(tiny_scene, tiny_sphere)
    assert trained_scene_of(plain, scene, split, step=1).scene is scene


def test_cameras_stand_still_in_the_warm_up(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere, *REFINE, "--shape_warmup_steps", 2)
    moved = []
    for step in range(3):
        trainer.train_step(step)
        moved.append(bool(trainer.refiner.poses.turn.any()))
    assert moved == [False, False, True]


@pytest.mark.parametrize("flags", [
    [], ["--tracer", "reference"], ["--feature_aggregation_method", "lumigraph_epipolar"],
    ["--occlusion_method", "correlation"], ["--target_crop", "16"], ["--train_decoder_sdf", 0]])
def test_every_alternative_refines(tiny_scene, tiny_sphere, flags):
    trainer = trainer_of(tiny_scene, tiny_sphere, *REFINE, "--shape_warmup_steps", 0, *flags)
    for step in (0, 1):                                    # of shape, of images alone
        losses = trainer.train_step(step)
        assert all(torch.isfinite(value) for value in losses.values())
    turn = trainer.refiner.poses.turn
    assert turn[1:].any() and not turn[0].any()            # those that were drawn
