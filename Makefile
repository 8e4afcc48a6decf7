# Every target sets up its own .venv first; the second time that is a no-op.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: serve test test-fast lint fmt clean
serve: $(VENV)/.serve
	$(BIN)/tailrace serve $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not integration and not interop" $(ARGS)
	$(BIN)/python -m pytest -m "integration or interop" $(ARGS)

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not integration and not interop" $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Debian ships python3 without ensurepip (package python3-venv); then pip comes into the environment from the
# system's pip, or, failing that, the message says what to install.
$(BIN)/pip:
	@echo "creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tailrace needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; } || { rm -rf $(VENV); echo "cannot make a virtual environment: install python3-venv (Debian) or a Python from python.org (macOS)" >&2; exit 1; }

$(VENV)/.serve: pyproject.toml | $(BIN)/pip
	@echo "installing tailrace into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	@echo "installing tailrace with test and lint tools into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test,lint]'
	@touch $@ $(VENV)/.serve

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
