# Two commands: `make demo` and `make test`. Everything else is a part of them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test quicktest format lint types clean

demo: $(VENV)/.demo
	$(BIN)/edgectl demo

# Two at a time, a file each: most tests wait for something, and the files share nothing.
SIDE_BY_SIDE := -n 2 --dist loadfile

test: $(VENV)/.dev lint types
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

quicktest: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m 'not slow' --ignore tests/delivery

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

clean:
	rm -rf $(VENV) out
