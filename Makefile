# make env    create .venv with the pinned dependencies (needs python3 and git only)
# make check  format, lint, types, import contracts, spelling, doctests
# make test   every test but those marked slow
# make demo   fine-tune on a small generated data set and show the result
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

demo: env runs/demo/mvtec
	$(BIN)/python jobs/finetune.py --config configs/demo.yaml
	@echo "The bundle, its metrics by epoch and the images it has seen are in runs/demo/bundle:"
	@cat runs/demo/bundle/metrics.json

runs/demo/mvtec: | env
	$(BIN)/python -m feclip.demo mvtec $@ --families finetuning --seed 0 --image_size 128 \
		--num_train_good 4 --num_test_good 8 --num_per_defect 2

lock:
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra dev pyproject.toml --output-file requirements.txt

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
