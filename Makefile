# Needs python3 (3.11 or newer, with venv) and make. Everything else goes into .venv; nothing outside it changes.
PYTHON ?= python3
BIN := .venv/bin
# The parity oracle of the tests, pinned. PyPI's for Linux brings 6.5 GB of CUDA; a build for the CPU is
# labelled +cpu there, and PyTorch's index has it. Without one the tests that need torch are skipped.
TORCH := torch==2.13.0
TORCH_CPU ?= $(TORCH)$(if $(filter Linux,$(shell uname -s)),+cpu)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# What drives the GPU: cuda12 or cuda13. `make gpu BIN=` takes PYTHON as it is and installs nothing.
CUDA ?= cuda13
RUN = $(if $(BIN),$(BIN)/python,$(PYTHON))

.PHONY: help demo bench bench-frameworks readme test emulate gpu gpu-kit soak check wheel-test clean
.DELETE_ON_ERROR:

help:
	@echo "make demo | bench | bench-frameworks | readme | test | emulate | gpu | gpu-kit | soak | check | wheel-test | clean    (README.md says what each does)"

demo: .venv/.bench
	$(BIN)/python -m benchmarks.digits
	$(BIN)/python -m benchmarks --quick

bench: .venv/.bench
	$(BIN)/python -m benchmarks $(ARGS)

# The adapters: forward and backward pass of the frameworks, objectives of boosting. The accuracy of
# the gradient, beside the same frameworks.
bench-frameworks: .venv/.test
	$(BIN)/python -m benchmarks.frameworks
	$(BIN)/python -m benchmarks.boosting
	$(BIN)/python -m benchmarks.accuracy

# What `make demo` and `make bench` leave is in benchmarks/runs; this alone changes what git keeps.
readme: .venv/.test
	$(BIN)/python -m benchmarks.digits --out benchmarks/results/digits.png
	$(BIN)/python -m benchmarks --readme
	$(BIN)/python -m benchmarks.frameworks --readme
	$(BIN)/python -m benchmarks.boosting --readme
	$(BIN)/python -m benchmarks.accuracy --readme

test: .venv/.test
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# The GPU tests without a GPU: the compiled kernels emulated, for the architecture and with the order
# of threads that EMULATOR_CAPABILITY (9.0) and EMULATOR_ORDER (forward) name. Most of an hour.
emulate: .venv/.test
	EMULATE=all $(BIN)/python -m pytest -n auto --dist worksteal -W default -m gpu -p tests.emulator.plugin tests/cuda/test_gpu*.py $(ARGS)
	EMULATE=all $(BIN)/python -m pytest -n auto --dist worksteal tests/emulator/test_emulat*.py tests/cuda/test_cuda_code.py $(ARGS)

# On a machine with a GPU: the tests marked gpu, a small run under compute-sanitizer, the benchmark.
# The first small run puts the kernels on disk, so that none is compiled under the sanitizer.
gpu: $(if $(BIN),.venv/.test .venv/.$(CUDA))
	$(RUN) -m pytest -m gpu -W default tests/cuda/test_gpu*.py $(ARGS)
	$(RUN) -m tests.cuda.sanitized
	@for tool in memcheck racecheck; do \
	  if ! command -v compute-sanitizer; then echo "$$tool left out: no compute-sanitizer"; continue; fi; \
	  compute-sanitizer --tool $$tool --error-exitcode 1 $(RUN) -m tests.cuda.sanitized || exit 1; \
	done
	$(RUN) -m benchmarks --device cuda

# On a machine without one: all that is needed where a GPU is to be had for minutes only, without
# network (tests/device/README.md).
gpu-kit: .venv/.test
	bash tests/device/prepare.sh

# Ten minutes of mixed calls; fails where memory grows.
soak: .venv/.test
	$(BIN)/python -m tests.house.soak $(ARGS)

check: .venv/.dev
	$(BIN)/ruff check fusedce kernels tests benchmarks
	$(BIN)/ruff format --check fusedce kernels tests benchmarks
	$(BIN)/mypy
	$(BIN)/basedpyright tests/house/typed_calls.py

# The wheel as a user gets it: a clean environment, a folder that is not the checkout.
wheel-test: .venv/.pip
	rm -rf build dist .venv/wheel && $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .venv/wheel && .venv/wheel/bin/python -m pip install --quiet dist/*.whl
	cd / && $(CURDIR)/.venv/wheel/bin/python -c "$$WHEEL_CALL"

clean:
	rm -rf .venv .gpu build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An installed extra leaves a stamp, so a second `make` installs nothing.
.venv/.%: pyproject.toml | .venv/.pip
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

.venv/.test: | .venv/.torch

# What is there already, in whatever build, or lies in a folder that pip is told of (find-links) will
# do. Without a build for the CPU there is no stamp, so that the next `make` asks again.
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
