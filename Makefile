# Everything a newcomer or CI types. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: help run test slow lint types check lab equivalence scoreboard bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

run: ## set up what is missing, then trace a registry stand-in on this machine (ends by itself)
	@PYTHON=$(PYTHON) sh .ci/setup run
	@if [ "$$(id -u)" = 0 ]; then $(BIN)/regtrace demo; else $(BIN)/regtrace demo || { \
		echo "run: without permission to trace, here is a pull that was recorded elsewhere:"; \
		$(BIN)/regtrace replay replays/registry-pull/trace.arrows; }; fi

test: ## set up what is missing, then run all tests but the slow ones
	@PYTHON=$(PYTHON) sh .ci/setup test
	$(PYTEST) -m "not slow"

slow: ## the slow tests only
	@PYTHON=$(PYTHON) sh .ci/setup lab
	$(PYTEST) -m slow

lint: ## ruff
	@PYTHON=$(PYTHON) sh .ci/setup lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: ## mypy --strict
	@PYTHON=$(PYTHON) sh .ci/setup lint
	$(BIN)/mypy

check: lint types test ## all of lint, types and test

lab: ## play every scenario against real registries, proxies and clients, into build/lab (root; 80 minutes)
	@PYTHON=$(PYTHON) sh .ci/setup lab
	$(BIN)/python -m tests.lab

equivalence: ## play every scenario for all sources at once, into build/equivalence, and compare what they see (root; 90 minutes)
	@PYTHON=$(PYTHON) sh .ci/setup lab
	$(BIN)/python -m tests.lab.equivalence

scoreboard: ## what each rule set makes of the scenarios: those in build/lab, or else those kept in replays
	@PYTHON=$(PYTHON) sh .ci/setup lint
	@if ls build/lab/*/label.json >/dev/null 2>&1; then $(BIN)/python -m tests.lab.scoreboard build/lab; \
		else $(BIN)/python -m tests.lab.scoreboard replays; fi

bench: ## measure against tcpstates, bpftrace, ss and psutil, in one run (root; 12 minutes)
	@PYTHON=$(PYTHON) sh .ci/setup bench
	$(BIN)/python -m tests.bench

clean: ## remove what the set-up and the tools made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
