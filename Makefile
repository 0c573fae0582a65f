# make demo   install into .venv and show a whole run        make test   all tests with coverage
# make lint   ruff and mypy                                  make docs   write docs/cli.md and docs/errors.md anew
# make test-long  kills, faults and odd files by the thousand, under an hour (docs/reliability.md)
# make bench  speed beside other tools, about 50 minutes on free cores (docs/performance.md)
#
# PYTHON    the interpreter that makes .venv (3.11 or newer)
# PIP_ARGS  more words for pip install, for example the index of PyTorch's CPU wheels (docs/install.md)
# BENCH     what the benchmarks run, for example BENCH="startup --rounds 5"
# TESTS     what pytest runs, for example TESTS="tests/data -x"
# LONG_LOG  where make test-long writes its figures
# JOBS      how many processes run tests, one thread each

PYTHON ?= python3
PIP_ARGS ?=
TESTS ?= tests
BENCH ?=
JOBS ?= 2
LONG_LOG ?= reliability.jsonl
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
COVERAGE := --cov=headstart --cov-report=term:skip-covered --cov-fail-under=90

.PHONY: demo test test-long lint docs bench clean help

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(VENV)/.installed
	$(BIN)/headstart demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(COVERAGE) $(TESTS)

test-long: $(VENV)/.dev
	OMP_NUM_THREADS=1 HEADSTART_LONG_LOG=$(LONG_LOG) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m long --timeout 3600 \
	  tests/reliability

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python tools/make_docs.py

bench: $(VENV)/.dev
	$(PIP) install $(PIP_ARGS) -e '.[bench]'
	$(BIN)/python benchmarks/speed.py $(BENCH)

clean:
	rm -rf .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist headstart-runs

# The stamps are older than pyproject.toml when its dependencies may have changed.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing headstart into $(VENV) (PyTorch is large: this may take minutes)"
	$(PIP) install $(PIP_ARGS) -e '.[fast]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing headstart and the developers' tools into $(VENV) (PyTorch is large: this may take minutes)"
	$(PIP) install $(PIP_ARGS) -e '.[dev]'
	@touch $@ $(VENV)/.installed
