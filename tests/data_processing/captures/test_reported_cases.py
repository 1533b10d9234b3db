"""Inputs that users of other tools reported in public, and which test has each of them.

docs/own_photographs.md gives their number, which is counted here. The generators are in
`support/`: foreign_captures, tool_captures, lens_captures, mask_pictures, spoilt_scenes.
"""
from __future__ import annotations

import ast
import re

import pytest

from utils.paths import PROJECT_ROOT

CAPTURES, CHECKS = "tests/data_processing/captures/", "tests/data_processing/checks/"
SCENES, FILES = "tests/data_processing/scenes/", "tests/utils/files/"
#: Test, and the inputs that it has.
REPORTED: dict[str, tuple[str, ...]] = {
    CAPTURES + "test_colmap_project.py::test_the_model_with_most_images_is_read": (
        "a fragment in sparse/0 and the whole in sparse/1", "sparse/1 alone", "undistorted/sparse",
        "a model in sparse/ itself", "models in 0/ and 1/", "models of two programs"),
    CAPTURES + "test_colmap_project.py::test_both_forms_of_a_model": (
        "text beside an older binary model",),
    CAPTURES + "test_colmap_project.py::test_undistorted_images_belong_to_their_model": (
        "images of the same names, distorted and undistorted",),
    CAPTURES + "test_colmap_project.py::test_text_models_of_other_tools": (
        "images.txt without lines of points", "with empty ones", "with full ones",
        "each with the line ends of Windows"),
    CAPTURES + "test_colmap_project.py::test_another_number_of_images_is_refused": (
        "images.txt cut short",),
    CAPTURES + "test_colmap_project.py::test_names_with_spaces_and_of_numbers": (
        "names with spaces", "names of numbers"),
    CAPTURES + "test_colmap_project.py::test_names_in_other_capitals": (
        "000.PNG for 000.png", "two that differ in capitals alone"),
    CAPTURES + "test_importing.py::test_masks_in_the_sub_folders_of_their_photographs": (
        "two cameras, masks in sub-folders", "the same below images/",
        "masks in each camera's folder"),
    CAPTURES + "test_importing.py::test_one_mask_for_two_photographs_is_refused": (
        "two cameras, masks in one folder",),
    SCENES + "test_mask_files.py::test_every_kind_in_all_readers": (
        "white masks", "a cutout on black with alpha", "a cutout with its background kept",
        "white with alpha", "opaque alpha", "a palette", "a palette without black", "green masks",
        "blue masks", "values 0 and 1", "label 2", "one bit"),
    SCENES + "test_mask_files.py::test_jpeg_masks": ("JPEG masks",),
    SCENES + "test_mask_files.py::test_a_photograph_is_no_mask": ("photographs as masks",),
    CHECKS + "test_finding_cures.py::test_an_empty_mask_never_agrees_on_an_object": (
        "masks that are all empty",),
    FILES + "test_glb.py::test_three_js_shows_the_colours_that_went_in": (
        "colours of a GLB file in another program",),
    CAPTURES + "test_undistortion.py::test_the_object_is_uncut_and_where_it_belongs": (
        "a fisheye of 120 degrees", "of 150", "of 170, off centre", "of 185"),
    CAPTURES + "test_undistortion.py::test_a_lens_without_a_picture_is_named": (
        "coefficients that fold the picture", "a principal point outside"),
    CAPTURES + "test_import_folders.py::test_a_scene_is_not_imported_onto_itself": (
        "output is input", "by a link", "by another spelling"),
    CAPTURES + "test_import_folders.py::test_folders_that_lie_in_each_other": (
        "output in input", "input in output"),
    CAPTURES + "test_structure_from_motion.py::test_copies_follow_the_content": (
        "photographs named with brackets and #", "a.png beside a.PNG",
        "other photographs under old names", "older ones under old names"),
    CAPTURES + "test_structure_from_motion.py::test_a_native_abort_is_one_line": (
        "COLMAP aborts",),
    SCENES + "test_world_origin.py::test_captures_of_every_kind_far_away": (
        "UTM in transforms.json", "in COLMAP's binary files", "in COLMAP's text", "in *_par.txt",
        "in Polycam's files", "in Metashape's", "in Metashape's component", "in LLFF's",
        "in matrices as text", "in MVSNet's"),
    SCENES + "test_world_origin.py::test_scene_folders_far_away": (
        "UTM in cameras.npz", "UTM in the processed format", "earth-centred coordinates"),
    "tests/stages/test_results.py::test_a_mesh_far_from_the_origin": ("a mesh in UTM",),
    FILES + "test_text_encodings.py::test_marks_are_left_out": (
        "a byte-order mark in JSON", "in COLMAP's text", "in *_par.txt", "in yaml", "in a config"),
    FILES + "test_text_encodings.py::test_other_encodings_are_named": ("UTF-16", "Windows-1252"),
    "tests/utils/results/test_drawing.py::test_a_backend_that_is_not_installed": (
        "a notebook's MPLBACKEND",),
    CAPTURES + "test_foreign_files.py::test_suffixes_and_capitals": (
        "file_path without suffix beside 000.PNG", "img_1.jpg for IMG_1.JPG"),
    CAPTURES + "test_foreign_files.py::test_absolute_paths_of_another_computer": (
        "absolute paths of Windows", "absolute paths of another home"),
    CAPTURES + "test_foreign_files.py::test_matrices_in_other_forms": (
        "matrices as 16 numbers, by rows", "by columns"),
    CAPTURES + "test_foreign_files.py::test_null_is_not_given": ("null for what is not given",),
    CAPTURES + "test_foreign_files.py::test_other_formats_are_named": (
        "WEBP", "TIFF", "BMP", "GIF", "PPM"),
    CAPTURES + "test_foreign_files.py::test_litter_of_file_browsers_is_replaced": (
        ".DS_Store in the output", "Thumbs.db", "._ files"),
    CAPTURES + "test_foreign_files.py::test_photographs_of_an_idr_folder_in_images": (
        "an IDR folder with images/ and masks/",),
    CAPTURES + "test_foreign_files.py::test_cameras_without_intrinsics_are_named": (
        "cameras.npz of DVR",),
    CAPTURES + "test_foreign_files.py::test_linked_images_are_read_alike": (
        "images/ on another disk",),
    CAPTURES + "readers/test_tool_formats.py::test_round_trip": (
        "Polycam's raw export", "its corrected one", "poses_bounds.npy", "3x4 matrices as text",
        "with CONTOUR", "negative ones", "MVSNet's", "Metashape's XML", "its components"),
    CAPTURES + "readers/test_tool_formats.py::"
               "test_formats_that_are_not_read_name_the_export_that_is": (
        "RealityCapture's table", "Record3D's recording"),
    CAPTURES + "test_pinhole_images.py::test_gaps_between_columns_are_background": (
        "gaps between columns before black", "before white"),
    CHECKS + "test_scene_checks.py::test_masks_that_leak_over_a_stand": (
        "two masks leak over a stand",),
    CHECKS + "test_states.py::test_inverted_masks_of_an_object_that_reaches_the_border": (
        "inverted masks of an object that reaches the border",),
    CHECKS + "test_scene_checks.py::test_each_mistake_is_named": (
        "one camera far off", "one camera rolled")}


def num_inputs() -> int:
    return sum(map(len, REPORTED.values()))


@pytest.mark.parametrize("test", list(REPORTED))
def test_each_reported_input_has_its_test(test):
    path, _, name = test.partition("::")
    tree = ast.parse((PROJECT_ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert len(set(REPORTED[test])) == len(REPORTED[test])


def test_the_docs_say_how_many():
    text = (PROJECT_ROOT / "docs/own_photographs.md").read_text(encoding="utf-8")
    stated = re.search(r"(\d+) inputs that users\s+of other tools reported", text)
    assert stated is not None and int(stated[1]) == num_inputs()
