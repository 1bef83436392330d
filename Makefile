# Everything a fresh machine with Python and pip needs; each target sets up what it stands on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/produce.txt

.PHONY: setup demo test check format lock bench clean
setup: $(VENV)/.ready

$(VENV)/.ready: $(LOCK) requirements/uv.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/python -m flows demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell --toml pyproject.toml
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m tests.benchmarks

lock: setup
	$(BIN)/uv pip compile --quiet pyproject.toml --extra produce --group build --group test --group bench \
	  --group docs --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -o $(LOCK)
	echo uv | $(BIN)/uv pip compile --quiet - --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -o requirements/uv.txt

clean:
	rm -rf build dist archive demo .pytest_cache .mypy_cache .ruff_cache
