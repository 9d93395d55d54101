# Everything that is done with this repository. `make help` lists it. Needs python3 with venv, and make; nothing else.
# The tests drive real programs: `make test` installs those that are missing, if it may. SYSTEM=no leaves that out.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SYSTEM ?= yes
JOBS ?= auto
# `no` leaves out what is optional, in the tests and in the processes that they start.
UVLOOP ?= yes
CMASK ?= yes
WITHOUT = $(if $(filter no,$(UVLOOP)),PYTHONPATH=$(CURDIR)/tests/support/without_uvloop) $(if $(filter no,$(CMASK)),AIOHTTP_NO_EXTENSIONS=1)

BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run-ready
DEV_STAMP := $(VENV)/.dev-ready
FILES := $(VENV)/.files
PACKAGES := actors package proto runtime

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup system demo test check format bench clean distclean FORCE

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
	@echo 'Options of a target: make demo ARGS="--tunnels 20 --duration 20"'

setup: $(DEV_STAMP) ## make .venv and install the project with what development needs

demo: $(RUN_STAMP) ## run service, tunnels and traffic on this machine (tunnelfleet demo $(ARGS))
	$(BIN)/tunnelfleet demo $(ARGS)

system: ## install the programs that the tests drive, or say which are missing
	@SYSTEM=$(SYSTEM) PYTHON=$(PYTHON) tools/system-packages

test: system $(DEV_STAMP) ## run the tests, JOBS at a time (pytest $(ARGS); UVLOOP=no, CMASK=no)
	$(WITHOUT) $(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 4 --dist loadfile $(ARGS)

.PHONY: test-long
test-long: system $(DEV_STAMP) ## run the tests that take minutes, and nothing else (pytest $(ARGS))
	$(WITHOUT) $(BIN)/python -m pytest -m long $(ARGS)

check: $(DEV_STAMP) ## lint, format, types, spelling, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples
	$(BIN)/codespell
	$(BANDIT)
	$(BIN)/python tools/generate_proto.py --check
	$(BIN)/python tools/generate_metrics_docs.py --check
	$(BIN)/python tools/generate_commands_docs.py --check
	$(BIN)/python tools/generate_gateway_docs.py --check
	$(BIN)/python tools/generate_man_pages.py --check
	$(BIN)/python -m grafana.dashboards --check

BANDIT = $(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(PACKAGES) grafana

.PHONY: bandit
bandit: $(DEV_STAMP) ## look for what is dangerous in what is shipped; a part of check
	$(BANDIT)

format: $(DEV_STAMP) ## format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock audit
# tests/test_lock.py holds that it fits pyproject.toml. LOCK="--upgrade" takes the newest of everything.
LOCK ?=
lock: $(DEV_STAMP) ## resolve what the package and its extras depend on into requirements.lock ($(LOCK))
	$(BIN)/python -m pip install --quiet --group release
	UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile pyproject.toml --all-extras --universal \
		--python-version 3.11 --generate-hashes --quiet $(LOCK) --output-file requirements.lock

audit: $(DEV_STAMP) ## ask whether what is locked has known vulnerabilities
	$(BIN)/python -m pip install --quiet --group release
	$(BIN)/pip-audit --requirement requirements.lock --require-hashes --disable-pip

.PHONY: release
# The SBOM is that of an environment with what is locked and the wheel, so it has the graph of what depends on what.
release: $(DEV_STAMP) ## build what is published into dist/: wheel, sdist, SBOM
	$(BIN)/python -m pip install --quiet --group release
	rm -rf dist build/sbom
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	build/sbom/bin/python -m pip install --quiet --no-deps dist/*.whl
	build/sbom/bin/python -m pip uninstall --quiet --yes pip setuptools
	$(BIN)/cyclonedx-py environment build/sbom --pyproject pyproject.toml --output-reproducible \
		--output-file dist/tunnelfleet.cdx.json

.PHONY: coverage
# Without tests/bench, whose limits are for code that is not traced, and of the long tests with those of Ray, but for lost nodes, whose
# limits are of time: what Ray's processes do is nowhere else. Each process writes a file of its own. The floors: fail_under in
# pyproject.toml, which counts lines and branches together, and those of tools/coverage_floors.py.
coverage: system $(DEV_STAMP) ## run the tests, JOBS at a time, and measure branch coverage; fails below its floors
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest --numprocesses $(JOBS) --maxprocesses 4 --dist loadfile \
		--ignore=tests/bench $(ARGS)
	$(BIN)/python -m coverage run -m pytest -m long -k "not node_that" tests/e2e/test_ray.py
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered
	@mkdir -p build
	$(BIN)/python -m coverage json --quiet -o build/coverage.json
	$(BIN)/python tools/coverage_floors.py build/coverage.json

.PHONY: chaos
# SEED=123 is one seed, and its schedule; SEEDS=, FIRST= are how many, and from which on; PROCESSES=yes kills real processes
# (PostgreSQL and mosquitto are needed then); RECORD=yes writes what came of it into docs/reliability.md.
SEEDS ?= 200
FIRST ?= 0
chaos: $(DEV_STAMP) ## break everything by seeded schedules (SEEDS=200, SEED=123, PROCESSES=yes)
	$(BIN)/python -m tests.chaos --first $(FIRST) --seeds $(SEEDS) $(if $(SEED),--seed $(SEED)) \
		$(if $(PROCESSES),--processes) $(if $(RECORD),--record) $(ARGS)

bench: $(DEV_STAMP) ## measure (tests.bench $(ARGS))
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: fuzz soak
HARNESS ?=
RUNS ?= 1000000
fuzz: $(DEV_STAMP) ## attack each surface with atheris (HARNESS=name MINUTES=10 RUNS=1000000, tests.fuzz $(ARGS))
	$(BIN)/python -m pip install --quiet --group fuzz
	$(BIN)/python -m tests.fuzz $(HARNESS) --minutes $(or $(MINUTES),10) --runs $(RUNS) $(ARGS)

# Its processes run with the memory that the units of examples/deploy give theirs.
soak: $(DEV_STAMP) ## churn, drop and reload 200 tunnels for MINUTES=30, and judge what grows (tests.soak $(ARGS))
	GLIBC_TUNABLES=glibc.malloc.tcache_count=0 $(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30) $(ARGS)

clean: ## remove what building and testing left
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* htmlcov
	find $(PACKAGES) tests tools examples grafana -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f $(RUN_STAMP) $(DEV_STAMP)

distclean: clean ## remove .venv too
	rm -rf $(VENV)

# The names of the source files. An editable install links each of them, so a new one needs a new install; its
# content does not. The file changes only when the list does.
$(FILES): FORCE
	@mkdir -p $(VENV)
	@find $(PACKAGES) -type f ! -path '*/__pycache__/*' | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# pip of Debian 12 knows no dependency groups, so pip comes first. uvloop is a convenience and may have no wheel.
$(RUN_STAMP): pyproject.toml setup.cfg $(FILES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -e '.[fast]' || $(BIN)/python -m pip install --quiet -e .
	@touch $@

$(DEV_STAMP): pyproject.toml | $(RUN_STAMP)
	$(BIN)/python -m pip install --quiet --upgrade 'setuptools>=77' --group dev
	@touch $@
