# make demo    trains a binary network on real images and draws what it knows
# make test    the whole test suite, with linter and type checker
#
# Both make their own environment first. CONSTRAINTS=constraints-lowest.txt VENV=.venv-lowest
# installs the oldest supported versions instead of the newest known to work.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
INSTALLED = $(VENV)/installed

.PHONY: demo test clean

demo: $(INSTALLED)
	$(VENV)/bin/python -m experiments.image_classification --preset digits-bayes --out runs/demo --overwrite

test: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n 2 -q

$(INSTALLED): setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one with: make PYTHON=...")'
	@echo "installing into $(VENV), a minute or two"
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[experiments,test]'
	touch $@

clean:
	rm -rf $(VENV)
