# `make help` lists the verbs. Each makes .venv and installs what it needs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The libraries that phema.integrations works with, in an environment of their own: `make test` stays light.
INTEGRATIONS_VENV := .venv-integrations
INTEGRATIONS_STAMP := $(INTEGRATIONS_VENV)/.installed
STATE ?= .phema
# Processes that may not keep compiled modules compile torch and Ray anew at each start: twice the CPU of an import.
export PYTHONDONTWRITEBYTECODE :=
# Tests wait for processes as often as they compute: two at once keep two cores busy. Each file stays in one process.
TEST_WORKERS ?= 2
CLUSTER ?= .phema-cluster
FAULTS ?= 100
# Not installed by `make gpu`: machines with a GPU often bring their own torch, and may reach no package index.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
BENCHMARKS := ema_update magnitudes train_step sample data_loading snapshot_stall reconstruct posthoc_errors lr_decay language_model_decay planning search \
  evaluation service

.DEFAULT_GOAL := help
.PHONY: help install demo up down cluster cluster-down test test-slow test-containers test-integrations chaos lint types format docs \
  bench gpu clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml requirements.lock
	@deploy/install.sh $(PYTHON) $(VENV)
	@touch $(STAMP)

$(INTEGRATIONS_STAMP): pyproject.toml requirements.integrations.lock
	@deploy/install.sh $(PYTHON) $(INTEGRATIONS_VENV) test-integrations requirements.integrations
	@touch $(INTEGRATIONS_STAMP)

install: $(STAMP) ## make .venv with the locked versions

demo: $(STAMP) ## train on the digits and choose the EMA length afterwards; writes demo/
	@$(BIN)/phema demo

up: $(STAMP) ## run every service on this machine (STATE=folder, default .phema)
	@PHEMA_STATE_DIR=$(STATE) $(BIN)/phema up

down: $(STAMP) ## end the services of STATE
	@PHEMA_STATE_DIR=$(STATE) $(BIN)/phema down

cluster: $(STAMP) ## run docker-compose.yml's cluster without docker (CLUSTER=folder, default .phema-cluster)
	@$(BIN)/python -m deploy.local $(CLUSTER)

cluster-down: $(STAMP) ## end the cluster of CLUSTER
	@$(BIN)/python -m deploy.local $(CLUSTER) --down

test: $(STAMP) ## all tests but the slow proofs
	@$(BIN)/python -m pytest -m "not slow and not gpu and not containers" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) ## the slow proofs: kill storms, long trainings
	@$(BIN)/python -m pytest -m slow --timeout 1800

test-containers: $(STAMP) ## docker-compose.yml in real containers, with crashes (needs an engine, or root and docker.io)
	@$(BIN)/python -m pytest -m containers -s --timeout 3600 tests/containers

chaos: $(STAMP) ## random faults over real work, for 20 minutes or more; writes docs/chaos.md (FAULTS=100 SEED=number)
	@$(BIN)/python -m tests.chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED)) --write

test-integrations: $(INTEGRATIONS_STAMP) ## Lightning, Transformers, diffusers, MLflow, … themselves (makes .venv-integrations)
	@$(INTEGRATIONS_VENV)/bin/python -m pytest --confcutdir tests/integrations tests/integrations

lint: $(STAMP) ## ruff, and the arrows of the house
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --cache-dir .cache/import-linter

types: $(STAMP) ## strict types
	@$(BIN)/mypy

format: $(STAMP) ## put the code in ruff's format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: $(STAMP) ## build these pages as a site in build/site; every warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict && echo "build/site/index.html; with search: $(BIN)/python -m http.server -d build/site"

bench: $(STAMP) ## every benchmark, as a table
	@for b in $(BENCHMARKS); do echo "== $$b"; $(BIN)/python -m benchmarks.$$b || exit 1; done

gpu: ## every GPU test and benchmark on one GPU, in 8 minutes (GPU_PYTHON=python; needs torch, but not Ray)
	@$(GPU_PYTHON) -m benchmarks.gpu

clean: ## remove what the verbs made, but no environment and no state folder
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .cache build dist *.egg-info
	@find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
