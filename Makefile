# make compare : set up .venv, draw a data set, train the seven models briefly, render the report (under 20 minutes)
# make test    : set up .venv, run the tests in small doses        make test-all : the full doses, and
#                                                                   the models' contract on the plain attention unit
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal
OUT ?= out

.PHONY: compare test test-all lint clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[export,test]'
	touch $@

test: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PYTEST) -m "not full"

test-all: $(VENV)/.ready
	$(PYTEST) -m full
	$(PYTEST) --path plain tests/test_model_contract*.py tests/test_timm_suite.py

compare: $(VENV)/.ready
	$(RUN) -m benchmarks.compare --quick --output $(OUT)

clean:
	rm -rf $(OUT)
