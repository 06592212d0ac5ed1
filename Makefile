# Every target does all set-up itself, in .venv; any Python from 3.11 will do: make demo PYTHON=python3.12
# Options for the command itself: make demo ARGS="--epochs 10 --keep my_folder", make test ARGS="-k DLKUNet"
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-rest test-all lint docs clean

install: .venv/.installed

# The version and the .pth and .start files are copied on installation; all other code is used in place.
.venv/.installed: pyproject.toml nnunet_plugins/__init__.py nnunet_plugins_autoload.pth nnunet_plugins_autoload.start
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: torch alone is a download of gigabytes, so this takes some minutes."
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

demo: install
	$(BIN)/nnunet-plugins demo $(ARGS)

# The first tier, the second, and both.
test: install
	$(PYTEST) -m "not slow" $(ARGS)

test-rest: install
	$(PYTEST) -m slow $(ARGS)

test-all: install
	$(PYTEST) $(ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: install
	$(BIN)/mkdocs build --strict $(ARGS)

clean:
	rm -rf .venv
