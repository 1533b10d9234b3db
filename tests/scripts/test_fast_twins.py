"""Each public name of utils/fast is compared with its slower twin in a test that is named here.

A fast form is kept only as long as a test shows that it gives what the plain form gives. So a new
public function or class of utils/fast needs an entry: in `COMPARED`, under the test that compares
it with its twin; or in `WITHOUT_TWIN`, with the reason why there is nothing to compare.
"""
from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAST = ROOT / "utils" / "fast"
OWN_TESTS, METHOD_TESTS = "tests/utils/fast/", "tests/method/"

#: "folder/test_file.py::test" to the names, below utils.fast, that it compares with their twins.
COMPARED: dict[str, tuple[str, ...]] = {
    OWN_TESTS + "test_chunked_autograd.py::test_totals": ("chunked_autograd.total_in_chunks",),
    OWN_TESTS + "test_chunked_autograd.py::test_maps": ("chunked_autograd.map_in_chunks",),
    OWN_TESTS + "test_replays.py::test_replayed_work_has_the_bits_of_the_work": (
        "replays.Replayed", "replays.GraphRecording", "recorded_operations.OperationRecording"),
    OWN_TESTS + "test_replays.py::test_operations_are_noted_with_their_shapes": (
        "recorded_operations.OperationNotes",),
    OWN_TESTS + "test_threads.py::test_each_row_once_in_slices_that_are_short_enough": (
        "threads.in_shares",),
    OWN_TESTS + "kernels/test_sines.py::test_sines_are_right_to_their_last_digits": (
        "kernels.sines.add_and_sine", "kernels.sines.add_and_sine_and_cosine"),
    OWN_TESTS + "kernels/test_sines.py::test_layers_are_those_of_the_network": (
        "siren.evaluator.sine_layer", "siren.evaluator.sine_and_cosine_layer"),
    OWN_TESTS + "siren/test_evaluator.py::test_every_network_has_its_evaluator": (
        "siren.evaluator.ChunkedSiren", "siren.evaluator.ChunkedSdf",
        "siren.evaluator.fast_evaluator", "siren.evaluator.is_siren_chain", "threads.shares_of"),
    OWN_TESTS + "tracing/test_cpu_tracer.py::"
    "test_evaluations_for_losses_match_those_of_the_plain_tracer": (
        "siren.gradients.total_of_values", "siren.gradients.total_of_gradients",
        "siren.gradients.known_values", "siren.gradients.WeightSums",
        "tracing.network_passes.NetworkPasses", "tracing.network_passes.has_analytic_gradients",
        "threads.only_shares"),
    OWN_TESTS + "tracing/test_cpu_tracer.py::test_same_hits_on_sine_networks": (
        "tracing.cpu_tracer.FastTracer", "tracing.grid_search.GridSearch"),
    OWN_TESTS + "tracing/test_sdf_grid.py::test_grid_is_exact_at_nodes_near_the_surfaces_error": (
        "tracing.sdf_grid.build_grid", "tracing.sdf_grid.SdfGrid"),
    OWN_TESTS + "tracing/test_sdf_grid.py::test_compiled_interpolation_is_the_plain_one": (
        "kernels.grid.interpolate",),
    OWN_TESTS + "tracing/test_sdf_grid.py::"
    "test_a_refined_grid_is_exact_for_polynomials_of_second_order": (
        "tracing.sdf_grid.second_differences",),
    OWN_TESTS + "tracing/test_grid_march.py::test_compiled_marches_are_the_plain_ones": (
        "kernels.grid.march", "tracing.grid_march.march_grid",
        "tracing.grid_march.march_together"),
    OWN_TESTS + "tracing/test_grid_march.py::test_the_least_on_rays_is_the_plain_one": (
        "kernels.grid.least_on_lines", "tracing.grid_march.least_on_rays"),
    OWN_TESTS + "tracing/test_gpu_tracer.py::test_hits_agree_with_the_plain_tracer": (
        "tracing.gpu_tracer.DeviceTracer",),
    OWN_TESTS + "tracing/test_gpu_tracer.py::test_empty_space_is_left_by_known_points_outside": (
        "tracing.gpu_tracer.GridNodes", "tracing.gpu_tracer.skip_empty_space"),
    OWN_TESTS + "tracing/test_gpu_tracer.py::"
    "test_more_going_rays_than_places_end_as_they_stand": ("tracing.gpu_tracer.march_masked",),
    OWN_TESTS + "tracing/test_gpu_tracer.py::test_first_rows": ("tracing.gpu_tracer.first_rows",),
    OWN_TESTS + "tracing/test_masked_march.py::test_rays_meet_a_ball_where_they_should": (
        "tracing.masked_march.begin_march", "tracing.masked_march.advance",
        "tracing.masked_march.march_plain"),
    OWN_TESTS + "tracing/test_triton_kernel.py::test_the_kernel_takes_the_steps_of_its_twin": (
        "tracing.triton_kernel.march_fused", "tracing.triton_kernel.pack"),
    OWN_TESTS + "image_networks/test_sparse_rows.py::test_rows_are_those_of_the_matrix": (
        "image_networks.sparse_rows.sparse_rows",),
    OWN_TESTS + "image_networks/test_sparse_rows.py::"
    "test_sums_and_their_gradient_are_the_dense_product": (
        "image_networks.sparse_rows.weighted_rows",),
    OWN_TESTS + "image_networks/test_sparse_rows.py::test_compiled_loops_are_the_plain_forms": (
        "image_networks.sparse_rows.add_rows", "image_networks.sparse_rows.row_products",
        "kernels.rows.add_rows", "kernels.rows.row_products"),
    OWN_TESTS + "image_networks/test_joined_convolution.py::"
    "test_resized_is_a_window_of_the_whole_resized": ("image_networks.joined_convolution.resized",),
    OWN_TESTS + "image_networks/test_joined_convolution.py::"
    "test_a_joined_convolution_is_the_one_of_resized_maps": (
        "image_networks.joined_convolution.JoinedConvolution",
        "image_networks.joined_convolution.convolve_resized"),
    "tests/realtime/test_renderer.py::test_compiled_blending_is_the_plain_one": (
        "kernels.scene_views.blend_points",),
    "tests/realtime/test_renderer.py::test_the_decoder_sees_the_whole_picture": (
        "kernels.convolutions.decode_rows",),
    "tests/realtime/test_mesh_rays.py::test_compiled_rays_are_those_of_the_rasteriser": (
        "kernels.triangles.draw_triangles", "kernels.triangles.mark_hits",
        "kernels.triangles.distances"),
    OWN_TESTS + "image_networks/test_compiling.py::test_a_compiled_network_is_the_network": (
        "image_networks.compiling.compile_networks", "image_networks.compiling.is_compiled"),
    METHOD_TESTS + "test_modules_unet_regions.py::"
    "test_regions_are_those_of_whole_maps_with_the_same_gradients": (
        "image_networks.parts.on_region", "image_networks.parts.reach",
        "image_networks.parts.whole"),
    METHOD_TESTS + "test_modules_sdf.py::"
    "test_learned_features_train_every_network_and_compact_is_the_same": (
        "image_networks.execution.FastExecution", "image_networks.sparse_blending.surface_hits",
        "image_networks.sparse_blending.surface_of_pixels"),
    METHOD_TESTS + "test_modules_sdf.py::"
    "test_blend_against_loops_over_targets_sources_and_pixels": (
        "image_networks.sparse_blending.blend_samples",),
    METHOD_TESTS + "test_sdf_rendering_sampling.py::test_single_samples_are_those_of_whole_maps": (
        "image_networks.sparse_blending.sample_points",),
}
A_BUNDLE = "holds what others compute"
A_CHOICE = "chooses between forms, or their sizes"
A_SETTING = "keeps or measures memory, and changes no number"
WITHOUT_TWIN = {
    "chunked_autograd.chunk_size": A_CHOICE,
    "image_networks.compiling.check_compiler": "looks for a compiler",
    "image_networks.execution.network_precision": A_CHOICE,
    "image_networks.joined_convolution.Side": A_BUNDLE,
    "image_networks.parts.Part": A_BUNDLE,
    "image_networks.sparse_rows.Rows": A_BUNDLE,
    "kernels.loading.loops_for": A_CHOICE,
    "memory.check_encoder_memory": A_SETTING,
    "memory.give_back_freed": A_SETTING,
    "memory.keep_freed_memory": A_SETTING,
    "memory.machine_memory": A_SETTING,
    "recorded_operations.RecordingError": "an error",
    "recorded_operations.name_of": "the name of an operation",
    "threads.num_threads": A_CHOICE,
    "tracing.gpu_tracer.DeviceGrid": A_BUNDLE,
    "tracing.gpu_tracer.has_triton": A_CHOICE,
    "tracing.grid_march.GridMarch": A_BUNDLE,
    "tracing.grid_march.Marched": A_BUNDLE,
    "tracing.masked_march.March": A_BUNDLE,
    "tracing.network_passes.WeightsWatch": "notices that weights have changed",
    "tracing.triton_kernel.PackedSiren": A_BUNDLE,
    "tracing.triton_kernel.block_of": A_CHOICE,
    "tracing.triton_kernel.can_march": A_CHOICE,
}
PAIRS = [(test, name) for test, names in COMPARED.items() for name in names]


def public_names() -> set[str]:
    """Return "module.name" of the public functions and classes that utils/fast defines."""
    found = set()
    for path in FAST.rglob("*.py"):
        module = ".".join(path.relative_to(FAST).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                found.add(f"{module}.{node.name}")
    return found


@cache
def definitions(path: Path) -> dict[str, set[str]]:
    """Return the words of each function, class and constant that a file defines, by its name."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = words(node)
        elif isinstance(node, ast.Assign):
            found |= {target.id: words(node) for target in node.targets
                      if isinstance(target, ast.Name)}
    return found


def words(node: ast.AST) -> set[str]:
    """Return the names, attributes and parameters in a syntax tree, decorators among them."""
    found = {getattr(part, kind, None) for part in ast.walk(node)
             for kind in ("id", "attr", "arg", "name")}
    return {word for word in found if isinstance(word, str)}


@cache
def library() -> dict[str, set[str]]:
    """Return `definitions` of utils/fast, of the modules that use it, and of tests/support."""
    users = [ROOT / name for name in ("sdf_rendering.py", "modules_unet.py", "modules_sdf.py",
                                      "stages/models.py", "realtime/blending.py")]
    found: dict[str, set[str]] = {}
    for path in [*FAST.rglob("*.py"), *users, *(ROOT / "tests" / "support").glob("*.py")]:
        for name, used in definitions(path).items():
            found[name] = found.get(name, set()) | used
    return found


@cache
def reached(path: Path, test: str) -> set[str]:
    """Return the words of a test, and of all that it leads to in its file and the library."""
    found: set[str] = set()
    left = {test}
    while left:
        name = left.pop()
        new = definitions(path).get(name, set()) | library().get(name, set())
        left |= new - found
        found |= new
    return found


def test_every_public_name_has_one_entry_and_every_entry_a_name():
    compared = [name for _, name in PAIRS]
    assert len(compared) == len(set(compared)) and not set(compared) & WITHOUT_TWIN.keys()
    entries = {*compared, *WITHOUT_TWIN}
    assert public_names() - entries == set(), "these are compared with no twin"
    assert entries - public_names() == set(), "utils/fast has no such name any more"


@pytest.mark.parametrize("test, name", PAIRS, ids=[name for _, name in PAIRS])
def test_the_test_of_a_twin_exists_and_leads_to_the_name(test, name):
    file, function = test.split("::")
    assert function in definitions(ROOT / file), f"{file} has no {function}"
    assert name.rsplit(".", 1)[1] in reached(ROOT / file, function), f"{test} does not use {name}"


def test_a_test_leads_to_what_it_uses_and_not_to_all():
    file = ROOT / OWN_TESTS / "kernels" / "test_sines.py"
    found = reached(file, "test_layers_are_those_of_the_network")
    assert "sine_layer" in found and "march_fused" not in found
