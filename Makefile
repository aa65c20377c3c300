# make demo    trains a binary network on real images and draws what it knows
# make test    the tests of the library and of what experiments share, with linter and type checker
# make long    the tests that take long: commands run from start to end, are killed and go on; guides; several devices
# make docs    the documentation, in docs/_build/html, with its notebooks executed
# make quick   the examples of the docstrings, and some tests of the library
# make page    fetches onnxruntime-web by npm for the page docs/digit: python -m http.server --directory docs/digit
#
# All make their own environment first, in .venv, with the versions of constraints.txt. Others:
#   make test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt                      the oldest supported
#   make test VENV=.venv-newest CONSTRAINTS=constraints-newest.txt PYTHON=python3.13    the newest

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
# The whole clone is on the path (editable_mode=compat), so that experiments start from any folder.
# Written last: an environment without it is made anew.
INSTALLED = $(VENV)/installed-with-$(notdir $(CONSTRAINTS))
SOURCES = bbinn_jax experiments tests docs
PYTEST = $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q
QUICK = bernoulli relaxation objective bayesbinn saving trajectories

ifneq ($(words $(VENV)) $(words $(CONSTRAINTS)),1 1)
$(error VENV and CONSTRAINTS must be paths without spaces, got VENV=$(VENV) CONSTRAINTS=$(CONSTRAINTS))
endif

# The page docs/digit runs networks with these two files of onnxruntime-web: of all its builds the smallest.
RUNTIME = docs/digit/onnxruntime
RUNTIME_FILES = ort.wasm.bundle.min.mjs ort-wasm-simd-threaded.wasm

.PHONY: demo test long quick docs page install clean

demo: $(INSTALLED)
	$(VENV)/bin/python -m experiments.image_classification --preset digits-bayes --out runs/demo --overwrite

test: $(INSTALLED)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/python -m mypy
	$(PYTEST) -m "not long"

long: $(INSTALLED)
	$(PYTEST) -m long

quick: $(INSTALLED)
	$(PYTEST) bbinn_jax README.md $(QUICK:%=tests/test_%.py)

docs: $(INSTALLED) page
	$(VENV)/bin/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "written: docs/_build/html; read it with: python -m http.server --directory docs/_build/html"

page: $(if $(shell command -v npm),$(RUNTIME)/copied)
	@test -e $(RUNTIME)/copied || echo "skipped: npm is needed for the files of onnxruntime-web, without which docs/digit has no networks"

$(RUNTIME)/copied: docs/npm/package-lock.json docs/npm/.npmrc
	@echo "installing onnxruntime-web, half a minute"
	@rm -rf build/npm && mkdir -p build/npm $(RUNTIME)
	@cp docs/npm/package.json $^ build/npm
	@cd build/npm && npm ci --ignore-scripts --no-audit --no-fund --silent
	@cp $(RUNTIME_FILES:%=build/npm/node_modules/onnxruntime-web/dist/%) $(RUNTIME)
	@rm -rf build/npm && touch $@

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one with: make PYTHON=...")'
	@echo "installing into $(VENV), a minute or two"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) \
	    --config-settings editable_mode=compat --editable '.[experiments,export,test,docs]' > $(VENV)/pip.log 2>&1 || { echo "error: the packages could not be installed (is there a network?): see $(VENV)/pip.log" >&2; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV)
