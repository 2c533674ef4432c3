# Needs Python 3.10 or later with pip. Everything is installed into .venv with pip as configured on this machine.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
PYTEST_FLAGS ?= -q
WORKERS ?= 2

# Go and Java with gRPC and protobuf, for tests/languages: packages of Debian 12.
LANGUAGES := golang-go golang-google-grpc-dev golang-google-genproto-dev golang-github-golang-protobuf-1-5-dev \
	protoc-gen-go-1-5 protoc-gen-go-grpc \
	default-jdk-headless libgrpc-java libprotobuf-java libnetty-java libguava-java libgoogle-gson-java libperfmark-java \
	libgeronimo-annotation-1.3-spec-java protobuf-compiler protobuf-compiler-grpc-java-plugin

# Keeps pyright from asking the network whether a newer version exists.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help quickstart test check protos languages bench clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

quickstart: .venv/quickstart.stamp ## Train on real data, log it to an embedded server, read it back
	@$(BIN)/python examples/train_digits.py

test: .venv/dev.stamp .tools/languages.stamp ## Run the tests; PYTEST_FLAGS='-k name' picks some, WORKERS=0 runs them in one process
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

languages: .tools/languages.stamp ## Install Go and Java from Debian's packages, for the tests of other languages; as root

bench: .venv/dev.stamp ## Measure speed, memory and size beside references; ROWS='submit calls' picks some
	@$(BIN)/python -m benchmarks $(ROWS)

clean: ## Remove .venv, .tools and every build product
	rm -rf .venv .tools quickstart-output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf examples/*/gen examples/go/gopath examples/go/logpoint examples/java/classes
	rm -rf examples/typescript/node_modules examples/typescript/dist
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

# Tests say which of them cannot run without; so nothing here stops make.
.tools/languages.stamp: Makefile
	@mkdir -p .tools
	@if dpkg --status $(LANGUAGES) >/dev/null 2>&1; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Go and Java with gRPC from Debian's packages (once, about half a minute)"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get -qq update && apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends \
			$(LANGUAGES) >/dev/null && touch $@ || echo "that failed: tests in Go and Java are going to be skipped"; \
	else echo "tests in Go and Java are going to be skipped: \`make languages\`, as root on Debian, installs what they need"; fi
