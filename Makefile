# make demo, make test: each does its own set-up, and needs nothing but Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
PEERS := .peers/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint bench peers clean

demo: .venv/ready
	$(BIN)/audioadv craft samples/train.wav samples/music.wav --target "open the front door" --bound snr:min --out demo

# Two processes of one thread each are quicker than one of two: much of a test is no sums. Threads that spin while they wait (OpenMP's way)
# make a test of two threads beside another take ten times as long.
test: .venv/ready
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/python recipes/craft_suite.py
	$(BIN)/python recipes/step_cost.py

# What others have made, for the recipes that compare with it. They ask for other versions than we do, so apart, and some without asking.
peers: .peers/ready

.peers/ready: pyproject.toml
	$(PYTHON) -m venv .peers
	$(PEERS) --editable ".[dev]"
	$(PEERS) asr-attacks==0.3.0 statsmodels GitPython requests six tqdm
	$(PEERS) --no-deps adversarial-robustness-toolbox==1.20.1 foolbox==3.3.4 eagerpy torchattacks==3.5.1 secml-torch==1.5
	@touch $@

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pesq 2>/dev/null || echo "pesq needs a C compiler: going on without"
	@touch $@

clean:
	rm -rf .venv .peers build demo runs
