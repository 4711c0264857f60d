# Python 3.11 to 3.13 and make are all that a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin
# Each file of tests goes to one worker, in the order of tests/conftest.py: the long files first. Tests wait for the
# processes that they start: three workers keep two cores busy.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder
INSTALLED := .venv/.installed

.PHONY: run pipeline test slow conformance lint format site bench lock clean

run: $(INSTALLED)
	@$(BIN)/python -m src.run +experiment=digits_quickstart

# The pipeline of dvc.yaml: what changed is run, the rest is found again.
pipeline: $(INSTALLED)
	@PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

# All but what is slow and rarely breaks, and the methods' conformance, which make conformance runs whole.
test: $(INSTALLED)
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" --ignore tests/methods/test_conformance.py

# The rest of the tests: whole commands that are killed, begun twice, or changed by somebody.
slow: $(INSTALLED)
	$(BIN)/python -m pytest $(WORKERS) -m slow

# Every method on every architecture, and every pair of methods.
conformance: $(INSTALLED)
	CONFORMANCE=all $(BIN)/python -m pytest -n 2 tests/methods/test_conformance.py

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The documentation site, in site/: pages that are written from the code first; a warning fails.
site: $(INSTALLED)
	$(BIN)/python docs/build.py
	$(BIN)/zensical build --clean --strict

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.clustering
	$(BIN)/python -m benchmarks.channels

# Pins everything in pyproject.toml, extras included, for Linux and macOS, with the hash of every file; names no download
# address. What is pinned stays so; a version goes up by its name: make lock UPGRADE="-P onnx".
lock:
	uv pip compile -q pyproject.toml --all-extras --universal --python-version 3.11 --no-emit-index-url --no-header \
		--no-annotate --generate-hashes $(UPGRADE) -o requirements.lock

$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
		"Python 3.11 to 3.13 is needed, and $(PYTHON) is %d.%d: make PYTHON=python3.11 ..." % v)'
	@echo "Making .venv from requirements.lock (about 7 GB; once)"
	@$(PYTHON) -m venv .venv
	@# Every file is checked against the lock, also those that install and build the others: uv, and setuptools for an sdist.
	@sed -n -e '/^uv==/,/[^\\]$$/p' -e '/^setuptools==/,/[^\\]$$/p' requirements.lock > .venv/first.txt
	@$(BIN)/python -m pip install -q --require-hashes --no-deps -r .venv/first.txt
	@# Byte code is compiled once, here: each process that has to do it by itself loses ten seconds and more.
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --require-hashes --no-build-isolation --compile-bytecode -r requirements.lock || \
		$(BIN)/python -m pip install -q --require-hashes --no-build-isolation --no-deps -r requirements.lock  # where only pip knows the package index
	@# The project itself, as it stands in this folder: dnn-compress, and src for notebooks elsewhere.
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation --no-index --editable .
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
