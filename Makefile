# make demo, make test: each does its own set-up, and needs nothing but Python 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/ready
	$(BIN)/audioadv craft samples/train.wav samples/music.wav --target "open the front door" --bound snr:min --out demo

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/python recipes/craft_suite.py
	$(BIN)/python recipes/step_cost.py

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pesq 2>/dev/null || echo "pesq needs a C compiler: going on without"
	@touch $@

clean:
	rm -rf .venv build demo runs
