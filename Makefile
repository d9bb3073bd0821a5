# make env    create .venv with the pinned dependencies (needs python3 and git only)
# make check  format, lint, types, import contracts, spelling, doctests
# make test   every test but those marked slow
# make demo   fine-tune on generated pictures with two workers, and show what it was worth on others
# make lock   compile requirements.txt anew from pyproject.toml

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: env check test slow demo lock clean
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
	$(BIN)/pytest --doctest-modules -q feclip

test: env
	$(BIN)/pytest -m "not slow"

slow: env
	$(BIN)/pytest -m slow

demo: env runs/demo/pictures/unseen
	$(BIN)/python jobs/finetune.py --config configs/demo.yaml
	@$(BIN)/python benchmarks/accuracy.py evaluate runs/demo/pictures --bundle runs/demo/bundle

runs/demo/pictures/unseen: | env
	$(BIN)/python benchmarks/accuracy.py data runs/demo/pictures

lock:
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra dev pyproject.toml --output-file requirements.txt

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
