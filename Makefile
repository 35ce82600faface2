# Two commands: `make demo` and `make test`. Everything else is a part of them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test quicktest test-compress format lint types clean

demo: $(VENV)/.demo
	$(BIN)/edgectl demo

# Three at a time on two cores, a file each: most tests wait for something, and the files share nothing. In the order
# of the folders: else the demo, one test in its file, comes last and alone.
SIDE_BY_SIDE := -n 3 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev lint types
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

quicktest: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m 'not slow' --ignore tests/delivery

# Pruning, recovery and fine-tuning need torch, which is large (2 GB with the rest), and so does converting its models:
# `make test-compress VENV=.venv-torch`. Conversions of TensorFlow are tested where edgectl[convert] is installed.
test-compress: $(VENV)/.compress
	$(BIN)/python -m pytest -q -m 'torch or convert'

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.demo

# One version, so that what the tests of training see changes only on purpose.
$(VENV)/.compress: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet torch==2.13.0 onnxscript skl2onnx
	touch $@

clean:
	rm -rf $(VENV) out
