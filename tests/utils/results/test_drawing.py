"""Matplotlib is imported when something is drawn, whatever backend the environment names."""
from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from utils.paths import PROJECT_ROOT
from utils.results.drawing import coloured, new_figure, to_array

#: Imports what draws, sees that matplotlib is not there yet, and draws.
PROGRAM = """
import sys
import utils.results.drawing as drawing
assert "matplotlib" not in sys.modules
figure, _ = drawing.new_figure(figsize=(1, 1), dpi=20)
assert drawing.to_array(figure).shape == (20, 20, 3)
import os
assert os.environ["MPLBACKEND"].startswith("module://")
"""


def test_a_backend_that_is_not_installed():
    """A notebook's MPLBACKEND does not matter."""
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline_absent.backend_inline"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, cwd=PROJECT_ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_imports_matplotlib_at_its_top():
    """Imports inside functions and for types alone are indented."""
    sources = [path for folder in ("utils", "stages", "data_processing", "experiment_scripts")
               for path in (PROJECT_ROOT / folder).rglob("*.py")]
    eager = [path.name for path in sources for line in path.read_text(encoding="utf-8").splitlines()
             if line.startswith(("import matplotlib", "from matplotlib", "from mpl_toolkits"))]
    assert len(sources) > 100 and eager == []


def test_figures_and_colours():
    figure, canvas = new_figure(figsize=(2, 1), dpi=10, facecolor="black")
    assert figure.canvas is canvas and (to_array(figure) == 0).all()
    colours = coloured(np.array([[0.0, 1.0]]), "gray")
    assert colours.dtype == np.uint8 and colours.tolist() == [[[0] * 3, [255] * 3]]
