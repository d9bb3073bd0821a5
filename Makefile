# make env    create .venv with the pinned dependencies (needs python3 and git only)
# make check  format, lint, types, import contracts, spelling, Dockerfile, doctests
# make test   every test but those marked slow, two at once
# make demo   on generated pictures: fine-tune with two workers, calibrate, score an archive, evaluate
# make bench  every row of benchmarks/README.md on the device it finds, long ones last, then that table
# make lock   compile requirements.txt anew from pyproject.toml

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: env check test slow demo bench lock clean
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
	$(BIN)/hadolint Dockerfile
	$(BIN)/pytest --doctest-modules -q feclip

test: env
	$(BIN)/pytest -m "not slow" --durations=25 -n 2 --dist loadgroup --no-loadscope-reorder

slow: env
	$(BIN)/pytest -m slow

demo: env
	$(BIN)/python jobs/demo.py

bench: env
	$(BIN)/python benchmarks/run.py

lock:
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra dev --extra aws pyproject.toml --output-file requirements.txt

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
