# make demo    the whole path on a small data set made here: videos -> shards -> split -> training -> test -> report
# make test    the tests
# make check   the gate: formatting, lint, types, tests (what CI runs)
# make check-long   also the kill series, soak and fuzz in full (over an hour); writes docs/reliability.md
# make docs    the documentation as a site, in site/: mkdocs-material, every link checked, nothing fetched from elsewhere
# make clean   remove what these made, the virtual environment included

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
# Three test files at a time, because many wait; each process with one thread for its arithmetic: the tests start processes of their own.
TEST_PROCESSES ?= 3
# Compiled modules are kept: without them every process of a test compiles the same code again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check check-long lint docs clean

# The virtual environment is made once and kept; it is made anew when what it holds changes. Python compiles a module at its
# first import: compiling all of them at once, most of which nothing imports, takes as long as the installation.
$(VENV)/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[train,export,dask,s3,vit,mlflow,dev]'
	@touch $@

demo: $(VENV)/.complete
	@PATH="$(abspath $(BIN)):$$PATH" bash benchmarks/demo.sh $(DEMO)

test: $(VENV)/.complete
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m 'not long' -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.complete
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

check-long: lint
	$(BIN)/python -m pytest -q --reliability

docs: $(VENV)/.complete
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) $(DEMO) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
