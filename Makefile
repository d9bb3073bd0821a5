# make env    create .venv with the pinned dependencies (needs python3 and git only)
# make check  format, lint, types, import contracts, spelling, Dockerfile, doctests
# make test   every test but those marked slow
# make reliability  the tests of faults, and docs/reliability.md from what they saw
# make demo   on generated pictures: fine-tune with two workers, calibrate, score an archive, evaluate
# make bench  every row of benchmarks/README.md on the device it finds, long ones last, then that table
# make lock   compile requirements.txt anew from pyproject.toml

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: env check test slow reliability demo bench lock clean
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
	$(BIN)/pytest -m "not slow" --durations=25

slow: env
	$(BIN)/pytest -m slow

reliability: env
	$(BIN)/pytest -m "chaos or (cluster and not slow)" --reliability-table docs/reliability.json
	$(BIN)/python tests/reliability.py

demo: env runs/demo-pictures/unseen runs/demo-normals/images runs/demo-archive/images
	$(BIN)/python jobs/finetune.py --config configs/demo.yaml --optim.epochs 2
	$(BIN)/python jobs/calibrate.py --bundle runs/demo --normals runs/demo-normals/images \
		--calibrate.percentiles 99 --output runs/demo-calibrated
	$(BIN)/python jobs/score.py --bundle runs/demo-calibrated --archive runs/demo-archive/images \
		--output runs/demo-scores
	$(BIN)/python jobs/evaluate.py --bundle runs/demo-calibrated --data.root runs/demo-pictures/unseen \
		--output runs/demo-unseen

runs/demo-pictures/unseen: | env
	$(BIN)/python benchmarks/accuracy.py data runs/demo-pictures

runs/demo-normals/images: | env
	$(BIN)/python -m feclip.demo archive runs/demo-normals --families unseen --image_size 128 --num_images 120 \
		--defect_fraction 0 --seed 10

runs/demo-archive/images: | env
	$(BIN)/python -m feclip.demo archive runs/demo-archive --families unseen --image_size 128 --num_images 150 --seed 11

bench: env
	$(BIN)/python benchmarks/run.py

lock:
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra dev --extra aws pyproject.toml --output-file requirements.txt

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
