# Everything a fresh machine with Python and pip needs; each target sets up what it stands on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/produce.txt

.PHONY: setup demo test check format lock bench docs links clean stack stack-down
setup: $(VENV)/.ready

$(VENV)/.ready: $(LOCK) requirements/uv.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

# Prefect, PostgreSQL, Dask and S3 as processes on loopback, deployments registered.
stack: setup
	$(BIN)/python -m flows stack up

stack-down:
	$(BIN)/python -m flows stack down

demo: setup
	$(BIN)/python -m flows demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell --toml pyproject.toml
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m tests.benchmarks

# The site, in build/docs; `make links` also asks the hosts of outside links.
docs: setup
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --jobs auto --builder html docs build/docs

links: docs
	$(BIN)/python -m sphinx --builder linkcheck docs build/links

lock: setup
	$(BIN)/uv pip compile --quiet pyproject.toml --extra produce --group build --group test --group bench \
	  --group docs --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -o $(LOCK)
	$(BIN)/uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header -o requirements/consume.txt
	echo uv | $(BIN)/uv pip compile --quiet - --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -o requirements/uv.txt

# Only what is made here: a survey that was built in the clone stays, and so does a stack, which may run.
clean:
	test ! -d build || find build -mindepth 1 -maxdepth 1 ! -name stack -exec rm -rf {} +
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
