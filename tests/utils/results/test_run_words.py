"""Sentences of the report against the entries of metrics.json that they are made from."""
from __future__ import annotations

import pytest

from utils.results.run_words import curve_words, fact, other_facts, run_sentences

RUN = {"mean": {}, "views": {}, "steps": 150, "train_seconds": 58.896, "seed": 0, "device": "cpu",
       "threads": 2, "skipped_steps": 0, "notices": [], "chamfer": None,
       "chamfer_unit": "world units", "checkpoint_sha256": "833a"}


@pytest.mark.parametrize("changes, sentences", [
    ({}, ["Trained for 150 steps in 58.9 s on the CPU, 2 threads, seed 0."]),
    ({"steps": 1, "threads": 1, "train_seconds": 844.53, "seed": None},
     ["Trained for 1 step in 844.5 s (14.1 min) on the CPU, 1 thread."]),
    ({"device": "NVIDIA H100", "train_seconds": None},
     ["Trained for 150 steps on NVIDIA H100, seed 0."]),
    ({"steps": None}, []),
    ({"steps": None, "mean": {"psnr": 28.0996}, "views": {"004": {}, "012": {}}},
     ["Its pictures of 2 views reach 28.10 dB PSNR against the photographs (more is better)."]),
    ({"steps": None, "mean": {"psnr": 28.0996}, "views": {"004": {}}, "baselines": {
        "hull + colours": {"psnr": 22.958}, "stereo + colours": {"psnr": 21.98}, "none": {}}},
     ["Its pictures of one view reach 28.10 dB PSNR against the photographs (more is better); "
      "without a network, hull + colours reaches 22.96 dB."]),
    ({"steps": None, "mean": {"psnr": None}, "views": {"004": {}}}, []),
    ({"steps": None, "skipped_steps": 1},
     ["One step was skipped, as a loss or a gradient was not finite."]),
    ({"steps": None, "skipped_steps": 3, "notices": ["no view sees the surface"]},
     ["3 steps were skipped, as a loss or a gradient was not finite.", "no view sees the surface"]),
    ({"steps": None, "chamfer": {"accuracy": 0.0226231, "completeness": 0.0266, "mean": 0.0247,
                                 "normal_degrees": None}},
     ["Distance of the mesh to the true surface: 0.02470 world units on average; 0.02262 from the "
      "mesh to the true points; 0.02660 from the true points to the mesh."]),
    ({"steps": None, "chamfer": {"mean": 1.0, "normal_degrees": 12.5}},
     ["Distance of the mesh to the true surface: 1.00000 world units on average; its normals "
      "are 12.5 degrees off, on average."])])
def test_what_is_said_of_a_run(changes, sentences):
    assert run_sentences({**RUN, **changes}) == sentences


def test_what_is_not_said_is_listed():
    assert other_facts({**RUN, "own_entry": [1, 2.5], "empty": []}) == {
        "checkpoint sha256": "833a", "own entry": "1, 2.5", "empty": "none"}


@pytest.mark.parametrize("value, text", [
    (None, "n/a"), (float("nan"), "n/a"), (0.123456789, "0.123457"), ({"a": {"b": 1}}, "a: b: 1"),
    (True, "True"), ("", "")])
def test_values_as_text(value, text):
    assert fact(value) == text


def test_curves_in_words():
    """As read from curve.csv, where everything is text and a step may lack values."""
    rows = [{"step": "0", "psnr": "16.747", "loss_total": ""},
            {"step": "1", "psnr": "", "loss_total": "5.96447"},
            {"step": "150", "psnr": "27.8937", "loss_total": "0.08"}]
    assert curve_words(rows) == ("Curves up to step 150: the total loss goes from 5.96 to 0.08, "
                                 "the held-out PSNR goes from 16.75 dB to 27.89 dB")
    assert "nothing was logged" in curve_words([])
