# Needs python3 (3.11 or newer, with venv) and make. Everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
# The tests compare with this version of torch. PyPI's build for Linux installs 6.5 GB of CUDA; PyTorch's
# own index has a build for the CPU, +cpu. Without torch the tests that need it are skipped.
TORCH := torch==2.13.0
TORCH_CPU ?= $(TORCH)$(if $(filter Linux,$(shell uname -s)),+cpu)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# The extra of fusedce for the GPU's driver: cuda12 or cuda13. `make gpu BIN=` uses PYTHON as it is and
# installs nothing.
CUDA ?= cuda13
RUN = $(if $(BIN),$(BIN)/python,$(PYTHON))

.PHONY: help demo bench bench-frameworks readme docs test emulate gpu gpu-kit soak check wheel-test clean
.DELETE_ON_ERROR:

# A target's line in `make help` is the text behind the ## of its rule: what it does; what it writes;
# how long it takes on two cores, without the first installation into .venv and the first compilation.
help: ## Prints these lines; writes nothing; takes no time
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' Makefile

demo: .venv/.bench ## Trains on scanned digits, measures a few cases; writes benchmarks/runs/digits.*; a minute
	$(BIN)/python -m benchmarks.digits
	$(BIN)/python -m benchmarks --quick

bench: .venv/.bench ## Measures loss and gradient (ARGS: options); writes benchmarks/runs/throughput.json; 3 minutes
	$(BIN)/python -m benchmarks $(ARGS)

bench-frameworks: .venv/.test ## Measures speed and accuracy beside torch and JAX, and the objectives of boosting; writes benchmarks/runs/*.json; 12 minutes
	$(BIN)/python -m benchmarks.frameworks
	$(BIN)/python -m benchmarks.boosting
	$(BIN)/python -m benchmarks.accuracy

# `make demo` and `make bench` write into benchmarks/runs, which git ignores; this target alone changes
# files that git keeps.
readme: .venv/.test ## Renews the pages from the last results; writes their tables and pictures; a minute
	$(BIN)/python -m benchmarks.digits --readme
	$(BIN)/python -m benchmarks --readme
	$(BIN)/python -m benchmarks.frameworks --readme
	$(BIN)/python -m benchmarks.boosting --readme
	$(BIN)/python -m benchmarks.accuracy --readme
	test ! -e benchmarks/runs/cuda.json || $(BIN)/python -m benchmarks --device cuda --readme

docs: .venv/.test ## Builds a web site of the public functions from their docstrings; writes build/docs; 10 seconds
	$(BIN)/python -m tests.house.docs $(ARGS)

test: .venv/.test ## Runs the tests on the CPU (ARGS: options of pytest); writes caches of compiled kernels; 15 minutes
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# EMULATOR_CAPABILITY (9.0) names the architecture, EMULATOR_ORDER (forward) the order of the threads.
emulate: .venv/.test ## Runs the GPU tests on an emulator of the compiled kernels; writes caches; an hour
	EMULATE=all $(BIN)/python -m pytest -n auto --dist worksteal -W default -m gpu -p tests.emulator.plugin tests/cuda/test_gpu*.py $(ARGS)
	EMULATE=all $(BIN)/python -m pytest -n auto --dist worksteal tests/emulator/test_emulat*.py tests/cuda/test_cuda_code.py $(ARGS)

# The first small run puts the kernels on disk, so that none is compiled under the sanitizer.
gpu: $(if $(BIN),.venv/.test .venv/.$(CUDA)) ## On a GPU: tests, compute-sanitizer, benchmark; writes benchmarks/runs/cuda.json; the benchmark 8 minutes, the others not measured yet
	$(RUN) -m pytest -m gpu -W default tests/cuda/test_gpu*.py $(ARGS)
	$(RUN) -m tests.cuda.sanitized
	@for tool in memcheck racecheck; do \
	  if ! command -v compute-sanitizer; then echo "$$tool left out: no compute-sanitizer"; continue; fi; \
	  compute-sanitizer --tool $$tool --error-exitcode 1 $(RUN) -m tests.cuda.sanitized || exit 1; \
	done
	$(RUN) -m benchmarks --device cuda

gpu-kit: .venv/.test ## Prepares a short run on a GPU machine without network (tests/device/README.md); writes .gpu; 5 minutes
	bash tests/device/prepare.sh

soak: .venv/.test ## Makes mixed calls, fails if memory grows (ARGS: --seconds N); writes nothing; 10 minutes
	$(BIN)/python -m tests.house.soak $(ARGS)

check: .venv/.dev ## Runs lint, format and type checks; writes caches; a minute
	$(BIN)/ruff check fusedce kernels tests benchmarks
	$(BIN)/ruff format --check fusedce kernels tests benchmarks
	$(BIN)/mypy
	$(BIN)/basedpyright tests/house/typed_calls.py

wheel-test: .venv/.pip ## Builds the wheel and calls it from a clean environment; writes dist and .venv/wheel; a minute
	rm -rf build/lib build/bdist* dist .venv/wheel && $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .venv/wheel && .venv/wheel/bin/python -m pip install --quiet dist/*.whl
	cd / && $(CURDIR)/.venv/wheel/bin/python -c "$$WHEEL_CALL"

clean: ## Removes .venv, .gpu, dist and caches; writes nothing; a second
	rm -rf .venv .gpu build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An installed extra leaves a stamp, so a second `make` installs nothing.
.venv/.%: pyproject.toml | .venv/.pip
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

.venv/.test: | .venv/.torch

# An installed torch of this version, of any build, is enough, and so is one in a folder that pip's
# find-links names. Without a build for the CPU no stamp is written, so that the next `make` asks again.
.venv/.torch: Makefile | .venv/.pip
	@pip="$(BIN)/python -m pip install --quiet --retries 0"; \
	if $$pip --no-deps --no-index $(TORCH) 2>/dev/null \
	  || $$pip --no-deps --extra-index-url $(TORCH_INDEX) $(TORCH_CPU); \
	then $$pip $(TORCH) && touch $@; \
	else echo "no $(TORCH_CPU) at $(TORCH_INDEX): the tests that need torch are skipped"; fi

.venv/.pip:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	touch $@

define WHEEL_CALL
import importlib.metadata, sys
import numpy as np, fusedce
assert "site-packages" in fusedce.__file__, fusedce.__file__
loss, grad = fusedce.cross_entropy(np.zeros((2, 4), np.float32), np.array([0, 3]))
assert np.isclose(loss, np.log(4)) and np.allclose(grad.sum(axis=1), 0) and grad.dtype == np.float32
loss, grad = fusedce.focal(np.zeros((2, 4)), np.eye(2, 4))
assert np.isclose(loss, 0.25 * np.log(2)) and grad.shape == (2, 4)
print("fusedce", importlib.metadata.version("fusedce"), "from its wheel: ok on Python", sys.version.split()[0])
endef
export WHEEL_CALL
