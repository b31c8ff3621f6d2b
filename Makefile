# Everything runs in .venv, which is made from requirements.lock when it is missing or older.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUTPUT ?= demo-output
PORT ?= 3000
# Tests at one time, each with one thread for its arithmetic: several threads of several tests would
# be in each other's way.
WORKERS ?= 2

# Compiled modules are kept where a machine says that they should not be: a program that loads a
# model would else compile thousands of them for 15 s each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test check test-long protos dev serve lock

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --no-compile --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

demo: install
	$(BIN)/xtts demo --output "$(OUTPUT)"

test: check
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -m "not long" \
		-n $(WORKERS) --no-loadscope-reorder
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test-long: install
	$(BIN)/pytest -m long --timeout=3600

protos: install
	$(BIN)/python -m grpc_tools.protoc -I xtts_grpc/v1=protos/xtts/v1 \
		--python_out=. --grpc_python_out=. --pyi_out=. xtts_grpc/v1/synthesis.proto

dev: install
	DAGSTER_HOME="$${DAGSTER_HOME:-$(CURDIR)}" $(BIN)/dagster dev --port $(PORT)

serve: install
	$(BIN)/xtts-serve

lock:
	uv pip compile --upgrade --no-emit-index-url --python-version 3.11 --extra dev \
		pyproject.toml -o requirements.lock
	uv pip compile --no-emit-index-url --python-version 3.11 --extra serve \
		-c requirements.lock pyproject.toml -o requirements-serve.lock
