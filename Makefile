# make demo   watch a watermark being embedded and found
# make test   run the tests              make lint   run the linters
# make test-engines  run real serving engines, each in its own environment
# make clean  remove the environment and what the tools left

VENV ?= .venv
PYTHON ?= python3
# The tested release, installed first. Override it for another build of torch, for example a CPU-only one:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
PYTEST_ARGS ?= -n 2 -q

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install

.DEFAULT_GOAL := help
.PHONY: help demo test test-engines lint clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 4

demo: $(VENV)/.installed
	$(BIN)/wmcheck demo demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-engines:
	PYTHON=$(PYTHON) tests/engines/run $(ENGINES)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=.dev/types $(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo >&2 \
	  "wmcheck needs Python 3.11 or newer, and '$(PYTHON)' is not that." \
	  "Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
