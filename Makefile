# Everything runs in .venv, which the first command makes from the locked requirements.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo unit test check docs bench chaos fuzz reference dashboards lock audit release clean

help: ## Say what each target does
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

.venv/ready: requirements.lock requirements-extras.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation \
		--requirement requirements-extras.lock 2>.venv/extras.log \
		|| echo "Without python-ldap and oracledb, tests of directories and one of Oracle are skipped. On Debian:" \
			"apt install gcc python3-dev libldap2-dev libsasl2-dev; rm .venv/ready (what went wrong: .venv/extras.log)"
	@touch $@

demo: .venv/ready ## Run the main job on the embedded broker, Moodle and ledger, and verify the outcome
	$(BIN)/cohorts demo

unit: .venv/ready ## Run the tests that need no server, in under a minute: those of pure, and of the ledger on SQLite
	$(BIN)/python -m pytest --numprocesses auto --hypothesis-profile unit \
		-m "not (postgres or slapd)" tests/ledger tests/pure

# More processes than CI has cores: for much of the time the tests wait for a server.
test: .venv/ready ## Run every test (what needs a server that is missing is skipped, and says what to install)
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: .venv/ready ## Lint, formatting, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

SITE := build/docs
SPHINX := $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --conf-dir docs --doctree-dir

docs: .venv/ready ## Build the site of docs/ in build/docs; a warning is an error, and so is what it would load from outside
	rm -rf $(SITE)
	$(SPHINX) build/doctrees/en docs $(SITE)
	$(SPHINX) build/doctrees/fr --define language=fr --define exclude_patterns= docs/fr $(SITE)/fr
	! grep -rE --include='*.html' '<(link|script|img|iframe)[^>]* (href|src)="(https?:)?//' $(SITE)
	! grep -rE --include='*.css' '(url\(|@import )["'"'"']?(https?:)?//' $(SITE)

bench: .venv/ready ## Measure, as ratios within one run
	$(BIN)/python -m tools.bench

chaos: .venv/ready ## Break everything that can break under running workers, and write docs/chaos.md
	$(BIN)/python -m tools.chaos --rounds 3 --write

fuzz: .venv/ready ## Try inputs that nobody should send, for MINUTES=10; what is found goes to tests/corpus
	$(BIN)/python -m tools.fuzz $(MINUTES)

reference: .venv/ready ## Write docs/reference and Kubernetes' copy of the rules anew
	$(BIN)/python -m tools.reference
	$(BIN)/python -m tools.prometheus_rule

dashboards: .venv/ready ## Write Grafana's dashboards anew from tools/dashboards
	$(BIN)/python -m tools.dashboards

LOCKED := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --quiet

lock: .venv/ready ## Write the locks anew from pyproject.toml: to develop, to run, to build the wheel, and the extras
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile $(LOCKED) --group dev --group build --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile $(LOCKED) --constraint requirements.lock --output-file requirements-runtime.lock pyproject.toml
	$(BIN)/uv pip compile $(LOCKED) --constraint requirements.lock --output-file requirements-build.lock --group build
	$(BIN)/uv pip compile $(LOCKED) --extra ldap --extra oracle --constraint requirements.lock \
		--output-file requirements-extras.lock pyproject.toml
	sed -i "1i # locked on $$(date +%F)" requirements-runtime.lock

audit: .venv/ready ## Look for known vulnerabilities of what runs; needs the advisories of PyPI, so a network
	@head -1 requirements-runtime.lock
	$(PYTHON) -m venv .cache/audit
	.cache/audit/bin/python -m pip install --quiet pip-audit
	.cache/audit/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements-extras.lock

release: .venv/ready ## Build the wheel, the source distribution and the SBOM, and try them in an empty environment (DRAFT=1)
	$(BIN)/python -m tools.release $(if $(DRAFT),--draft)

clean: ## Remove the virtual environment and caches
	rm -rf .venv .cache build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
