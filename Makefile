# `make demo` and `make test` need nothing but Python 3.11 or later; both keep to .venv.
PYTHON ?= python3
VENV ?= .venv

RUN := $(VENV)/bin/python -m
INSTALL := $(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.PHONY: demo test test-slow lint format clean

demo: $(DEMO)  ## answer one question within a budget of joules
	$(RUN) engine.generate --budget-joules 40 "47+35-18+6="

# A module's tests stay in one process, as they share what is dear to make; two processes share the modules.
SIDE_BY_SIDE := -n 2 --dist loadfile

test: lint  ## what every change has to pass
	$(RUN) pytest $(SIDE_BY_SIDE)

# pytest exits with 5 where no test is marked slow.
test-slow: $(DEV)
	$(RUN) pytest -m slow || [ $$? -eq 5 ]

lint: $(DEV)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: $(DEV)
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# Build outputs and caches. The virtual environment stays: `rm -rf .venv` is the way to a new one.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -path './$(VENV)' -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO): $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

# The dev install holds the plain one, so that `make demo` after `make test` installs nothing.
$(DEV): $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev]'
	@touch $(DEMO) $@
