# make run [DATASET=scenes|stanford_background]   execute the notebooks, or the main job on photographs
# make test                                       make check, then every test
# make check                                      lint, format and types, in seconds
# make lab                                        JupyterLab on notebooks/
# make bench                                      times, on this machine
# make experiment [NAME=fusion]                  the runs behind a results file; without NAME, lists them
# make checkpoint [DATASET=...]                   for authors: train the shipped models
# make outputs                                    for authors: execute the notebooks and store their outputs
# make wheel                                      one file with library and data, in build/: lay it beside a notebook
# make lowest PYTHON=python3.10                   for authors: tests/unit on the lowest versions that pyproject.toml allows
# make colab REPO=owner/name                      for authors: name the repository on GitHub, everywhere; adds the badges

DATASET ?= scenes
PYTHON ?= python3
PY := .venv/bin/python
# Threads that wait sleep: where others use the cores, they would else take them for nothing, and
# tests that last minutes last hours. The tests' own pictures are too small to share.
export OMP_WAIT_POLICY ?= passive

.PHONY: run test check lowest lab bench outputs experiment checkpoint wheel colab clean

run: .venv/ready
	$(PY) -m fusion_lib.lab.jobs $(DATASET)

test: check
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -rs tests
	$(PY) tests/notebooks/strict.py -q

check: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

lowest:  # in an environment of its own; pip has no way to ask for the lowest versions, uv has
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lowest/bin/uv pip install --python build/lowest --resolution lowest-direct -e '.[notebooks,test,rivals]'
	build/lowest/bin/python -m pytest -q -rs tests/unit

lab: .venv/ready
	$(PY) -m jupyterlab notebooks

bench: .venv/ready
	$(PY) -m timeit -n 1 -r 1 -s 'import torch, torchvision' 'import fusion_lib.training, fusion_lib.tuning, fusion_lib.plots'
	$(PY) -m fusion_lib.lab.bench

outputs: .venv/ready
	$(PY) -m fusion_lib.lab.jobs outputs

experiment: .venv/ready
	$(PY) -m fusion_lib.lab.experiments $(or $(NAME),--list)

checkpoint: .venv/ready
	$(PY) -m fusion_lib.lab.jobs checkpoint_$(DATASET)

wheel: .venv/ready  # setuptools would pack what an earlier build left in build/lib
	rm -rf build/lib build/bdist.*
	$(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build .
	@ls build/*.whl

colab: .venv/ready  # REPO reaches Python through the environment, whatever characters it holds
	@$(PY) -m fusion_lib.lab.hosted "$$REPO"
	@PYTHONPATH=. $(PY) tests/structure/make_bad.py

# The environment is whole only once `ready` is written; an interrupted installation is taken up again.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than 3.10; call: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv .venv || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; rm -rf .venv; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[notebooks,test,rivals]'
	@touch $@

clean:
	rm -rf .venv build
