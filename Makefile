# Needs Python 3.10 or later with pip. Everything is installed into .venv with pip as configured on this machine.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
PYTEST_FLAGS ?= -q
WORKERS ?= 2

# Keeps pyright from asking the network whether a newer version exists.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help quickstart test check protos bench clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

quickstart: .venv/quickstart.stamp ## Train on real data, log it to an embedded server, read it back
	@$(BIN)/python examples/train_digits.py

test: .venv/dev.stamp ## Run the tests; PYTEST_FLAGS='-k name' picks some, WORKERS=0 runs them in one process
	@$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_FLAGS)

check: .venv/dev.stamp ## Lint, types, generated files, compatibility of the protos
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python build_protos.py --check
	$(BIN)/buf lint
	$(BIN)/python tools/breaking.py

protos: .venv/quickstart.stamp ## Compile proto/ into the generated parts of the package
	@$(BIN)/python build_protos.py

bench: .venv/dev.stamp ## Measure speed, memory and size beside references; ROWS='submit calls' picks some
	@$(BIN)/python -m benchmarks $(ROWS)

clean: ## Remove .venv, .tools and every build product
	rm -rf .venv .tools quickstart-output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find neptune_api tests examples tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed, this is " + sys.version.split()[0] \
		+ "; name another with PYTHON=..." if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/quickstart.stamp: pyproject.toml | .venv/bin/python
	@echo "setting up .venv with the server and the examples (once, about half a minute)"
	@$(INSTALL) --editable '.[server,examples]'
	@touch $@

.venv/dev.stamp: pyproject.toml | .venv/bin/python
	@echo "setting up .venv with everything that checks and tests need (once, about a minute)"
	@$(INSTALL) --editable '.[dev]'
	@touch $@ .venv/quickstart.stamp
