# make compare  : set up .venv, generate a data set, train the seven models briefly, render the report (under 20 minutes)
# make test     : lint and the quick tests
# make test-all : the slow tests, and the model contract on the plain attention path
# make lint     : ruff, codespell and basedpyright      make format : apply ruff's automatic fixes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal
OUT ?= out

.PHONY: compare test test-all lint format clean

# The extra `test` includes `bench`, `export` and `webdataset`: one environment for every target.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[test]'
	touch $@

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/basedpyright

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(PYTEST) -m "not full"

test-all: $(VENV)/.ready
	$(PYTEST) -m full
	$(PYTEST) --path plain tests/models/test_model_contract*.py tests/models/test_timm_suite.py

compare: $(VENV)/.ready
	$(RUN) -m benchmarks.compare --quick --output $(OUT)

clean:
	rm -rf $(OUT)
