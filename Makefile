# make env    create .venv with the pinned dependencies (needs python3 and git only)
# make check  format, lint, types, import contracts, spelling, insecure code, Dockerfile, doctests, documentation
# make test   every test but those marked slow, two at once
# make fuzz   fuzz the parsers that are ours, FUZZ_SECONDS each (60); what fails is left in runs/fuzz/<target>/crash-*
# make reliability  the tests of faults, and docs/reliability.md from what they saw
# make audit  known holes in the pinned dependencies; needs the vulnerability database, and says so where it is not
# make anomalib  the tests of the bridge to anomalib, which has an environment of its own (docs/adr/0035-anomalib.md)
# make demo   on generated pictures: fine-tune with two workers, calibrate, score an archive, evaluate, report
# make bench  every row of benchmarks/README.md on the device it finds, long ones last, then that table
# make lock   compile requirements.txt and requirements-anomalib.txt anew from pyproject.toml

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
# A run starts dozens of processes, and each would compile what it imports: half its CPU time.
export UV_COMPILE_BYTECODE := 1
STAMP := $(VENV)/.installed

.PHONY: env check test slow reliability fuzz audit anomalib demo bench lock clean
.DEFAULT_GOAL := test

env: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv==$(UV_VERSION)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(STAMP)

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml feclip jobs benchmarks
	$(BIN)/hadolint Dockerfile
	$(BIN)/pytest --doctest-modules -q feclip --ignore feclip/integrations/anomalib
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: env
	$(BIN)/pytest -m "not slow" --durations=25 -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

slow: env
	$(BIN)/pytest -m slow

ANOMALIB := .venv-anomalib
ANOMALIB_STAMP := $(ANOMALIB)/.installed

$(ANOMALIB_STAMP): requirements-anomalib.txt pyproject.toml $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(ANOMALIB)
	$(BIN)/uv pip sync --quiet --python $(ANOMALIB)/bin/python --require-hashes requirements-anomalib.txt
	$(BIN)/uv pip install --quiet --python $(ANOMALIB)/bin/python --no-deps --editable .
	touch $(ANOMALIB_STAMP)

anomalib: $(ANOMALIB_STAMP)
	$(ANOMALIB)/bin/pytest tests/integrations
	$(ANOMALIB)/bin/pytest --doctest-modules -q feclip/integrations

demo: env
	$(BIN)/python jobs/demo.py

reliability: env
	$(BIN)/pytest -m "chaos or (cluster and not slow)" --reliability-table docs/reliability.json
	$(BIN)/python tests/reliability.py

FUZZ_SECONDS ?= 60
FUZZ_TARGETS := manifests records spaces names

fuzz: $(FUZZ_TARGETS:%=fuzz-%)

fuzz-%: env
	mkdir -p runs/fuzz/$*/corpus
	cd runs/fuzz/$* && PYTHONPATH=$(CURDIR) $(CURDIR)/$(BIN)/python $(CURDIR)/tests/fuzz/fuzz_target.py $* corpus \
		$(CURDIR)/tests/fuzz/seeds/$* -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=4096 -print_final_stats=1

audit: env
	$(BIN)/python .ci/audit.py requirements.txt

bench: env
	$(BIN)/python benchmarks/run.py

lock:
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra dev --extra aws pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra dev --extra aws --extra anomalib --constraint requirements.txt \
		pyproject.toml --output-file requirements-anomalib.txt

clean:
	rm -rf $(VENV) $(ANOMALIB) runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
