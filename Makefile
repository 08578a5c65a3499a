# make demo   sets up .venv and runs the cascade on a corpus that it generates
# make test   sets up .venv and runs formatting, types and tests
# make bench  measures how fast all of it is, on what the demo leaves; PARTS="small pool" for some of it
#
# TORCH_INDEX may name an index of PyTorch builds, as the one for CPU: without it pip may bring CUDA's.

PYTHON ?= python3
TORCH_INDEX ?=
OUT ?= runs/demo
BENCH ?= runs/bench
PARTS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo bench test test-cluster check format clean

demo: .venv/installed
	$(BIN)/uacs demo --out $(OUT)

bench: .venv/installed-bench $(OUT)/serve.yaml
	$(BIN)/python -m benchmarks.speed --out $(BENCH) --demo $(OUT) $(if $(PARTS),--parts $(PARTS))

$(OUT)/serve.yaml: | .venv/installed
	$(BIN)/uacs demo --out $(OUT)

test: check
	$(BIN)/python -m pytest

test-cluster: .venv/installed-dev
	$(BIN)/python -m pytest -m cluster

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	@echo "setting up .venv: a few minutes the first time"
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	@touch $@

.venv/installed-bench: .venv/installed-dev
	$(PIP) --editable '.[dev,bench]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
