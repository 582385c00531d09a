# Everything runs in .venv, which the first command makes from the locked requirements.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check bench reference lock clean

help: ## Say what each target does
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: .venv/ready ## Run the main job on the embedded broker, Moodle and ledger, and verify the outcome
	$(BIN)/cohorts demo

test: .venv/ready ## Run every test (what needs a server that is missing is skipped, and says what to install)
	$(BIN)/python -m pytest

check: .venv/ready ## Lint, formatting, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready ## Measure, as ratios within one run
	$(BIN)/python -m tests.bench

reference: .venv/ready ## Write deploy/reference.md anew from the code
	$(BIN)/python -m tests.reference

lock: .venv/ready ## Write requirements.lock anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--group dev --group build --quiet --output-file requirements.lock pyproject.toml

clean: ## Remove the virtual environment and caches
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
