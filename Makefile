# Every target does all set-up itself, in .venv; any Python from 3.11 will do: make demo PYTHON=python3.12
# Options for the command itself: make demo ARGS="--epochs 10 --keep my_folder", make test ARGS="-k demo"
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint clean

install: .venv/.installed

# The .pth and .start files are copied on installation; all other code is used in place.
.venv/.installed: pyproject.toml nnunet_plugins_autoload.pth nnunet_plugins_autoload.start
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -e '.[dev]'
	touch $@

demo: install
	$(BIN)/nnunet-plugins demo $(ARGS)

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv
