# The targets a newcomer needs; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
SET ?= cpu

.PHONY: help setup setup-test quickstart check test test-unit test-engine bench lock

help: ## List the targets.
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Create .venv from the locks and fetch the two model families; run again, it does nothing (SET=gpu: the CUDA set).
	@scripts/setup.sh --set $(SET)

setup-test: ## The same, and what only the tests use: clients of others, a browser's driver, an S3 server.
	@scripts/setup.sh --set $(SET) --clients

quickstart: setup ## Run one whole evolution on two real tiny model families: 12 to 25 minutes on 2 cores with bfloat16, longer without.
	$(BIN)/evomesh evolve configs/quickstart.yaml

check: setup ## Lint, formatting, types and the architecture test.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_architecture.py

test: test-unit test-engine ## All tests: first the unit tests (some twelve minutes on 2 cores), then the real engines.

test-unit: setup-test ## The unit tests alone.
	$(BIN)/pytest -n 2 --dist loadfile --durations=10

test-engine: setup-test ## The tests on the real engines and the quickstart models: some minutes.
	$(BIN)/pytest -m engine --ignore=tests/engine -n 2 --dist loadfile --durations=5
	$(BIN)/pytest -m engine --durations=5 tests/engine  # apart: its engines keep one Ray for the whole session

bench: setup ## Run the benchmarks that need no model and no seed of yours (the README says how to run the others).
	@for script in $$(ls scripts/bench_*.py | grep -v -e protocols -e pool -e memory_use); do \
		echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

lock: setup ## Resolve the requirement files again and write the locks with their hashes.
	$(BIN)/python scripts/lock.py
