# Every target sets up its own .venv first; the second time that is a no-op.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: serve test test-fast bench lint fmt clean
serve: $(VENV)/.serve
	$(BIN)/tailrace serve $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not integration and not interop" -n 2 $(ARGS)
	@echo "building the drivers of the foreign clients (once; a minute)"
	@$(BIN)/python -m tests.interop.clients
	$(BIN)/python -m pytest -m "integration or interop" -n 4 --dist worksteal $(ARGS)

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not integration and not interop" $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m bench $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Debian ships python3 without ensurepip (package python3-venv); then pip comes into the environment from the system's pip
# or from uv, or, failing both, the message says what to install. Nothing is ever written to the system's Python.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "tailrace needs Python 3.11 or newer ($(PYTHON) is not): make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "creating $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q --disable-pip-version-check pip; } 2>/dev/null \
	  || { rm -rf $(VENV); uv venv -q --seed --python $(PYTHON) $(VENV); } 2>/dev/null \
	  || { rm -rf $(VENV); echo "cannot make a virtual environment: apt install python3-venv (Debian, Ubuntu), or use a Python from python.org or Homebrew (macOS)" >&2; exit 1; }

$(VENV)/.serve: pyproject.toml | $(BIN)/pip
	@echo "installing tailrace into $(VENV) (once; half a minute)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	@echo "installing tailrace with test and lint tools into $(VENV) (once; some minutes)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test,lint]'
	@touch $@ $(VENV)/.serve

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
