# Every target sets up the virtual environment it needs; all of them can be run again at any time.
VENV   ?= .venv
PYTHON ?= python3
SIZE   ?= demo
RUN    ?= $(SIZE)
ARGS   ?=
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PEERS  := .venv-peers

.DEFAULT_GOAL := help
.PHONY: help setup demo test browser lint bench peers scaling tensorboard clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14
	@echo; echo "variables: RUN=$(RUN) (folder under checkpoints/), SIZE=$(SIZE) (demo, small, full), ARGS= (more key=value)"

setup: $(READY)  ## create the virtual environment with the tested versions

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), and Python 3.11 or newer is needed; try make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/transformers/models/' $(VENV) || true  # on all cores (pip takes one), without files that are hardly imported; some files are for other Pythons
	@touch $(READY)

demo: $(READY)  ## the whole pipeline: corpus, iql, sft, jpo, evaluate (SIZE=small for a quick one)
	$(BIN)/python train.py stage=iql "run=$(RUN)" size=$(SIZE) $(ARGS)
	$(BIN)/python train.py stage=sft "run=$(RUN)" size=$(SIZE) $(ARGS)
	$(BIN)/python train.py stage=jpo "run=$(RUN)" size=$(SIZE) $(ARGS)
	$(BIN)/python evaluate.py "run=$(RUN)" size=$(SIZE) $(ARGS)

test: $(READY)  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

browser:  ## Debian's Chromium, if there is no browser yet, for the tests of the report's page (needs root)
	command -v chromium chromium-browser google-chrome google-chrome-stable chrome || \
	  { apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium; }

lint: $(READY)  ## ruff, mypy and the order of the packages (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## the side-by-side timings of docs/performance.md
	for file in benchmarks/*_throughput.py; do $(BIN)/python $$file || exit 1; done

peers: $(READY) $(PEERS)/.ready  ## the same work by TRL, torchrl and d3rlpy in an environment of theirs, side by side
	$(BIN)/python benchmarks/peers/compare.py --theirs $(PEERS)/bin/python $(ARGS)

$(PEERS)/.ready: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	@touch $@

scaling: $(READY)  ## speed and memory against model size, chat length, batch and corpus size
	$(BIN)/python benchmarks/scaling.py $(ARGS)

tensorboard: $(READY)  ## the curves of every stage of every run
	$(BIN)/tensorboard --logdir checkpoints

clean:  ## remove the virtual environments and tool caches; runs and corpora stay
	rm -rf $(VENV) $(PEERS) .pytest_cache .mypy_cache .ruff_cache
