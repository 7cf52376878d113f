PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `make CONSTRAINTS= install` takes the newest releases instead of the tested ones.
CONSTRAINTS ?= constraints.txt

.PHONY: install demo test test-all lint format docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/texsynth demo --out runs/demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: lint
	$(BIN)/python -m pytest

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python -m pipeline.schema > docs/columns.md
	$(BIN)/python -m pipeline.queries_page > docs/queries.md

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .pytest_cache .ruff_cache
