# `make help` lists what there is. Everything that is built or downloaded is kept outside the checkout, in $(CACHE).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CACHE ?= $(or $(VLLM_OPERATOR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vllm-operator)
LOCK := requirements-dev.lock
VENV := $(CACHE)/venv-$(shell cat $(LOCK) 2>/dev/null | sha256sum | cut -c1-12)
BIN := $(VENV)/bin
export PYTHONPATH := operator
export PYTHONUNBUFFERED := 1
export VLLM_OPERATOR_CACHE := $(CACHE)

.PHONY: help
help: ## This list.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- what strangers type

.PHONY: demo
demo: venv ## From nothing to a chat completion: cluster, image, Helm install, VLLMModel, gateway. Can be run again.
	@$(BIN)/python -m tests.demo up

.PHONY: demo-down
demo-down: venv ## Remove all that `make demo` and the tests left running.
	@$(BIN)/python -m tests.demo down

.PHONY: test
test: venv ## Every layer of tests: checks, pure, in-memory, real API server, real node with real vLLM.
	@$(BIN)/python -m tests

# ---- what developers type

.PHONY: test-fast
test-fast: venv ## Tests that need no cluster.
	@$(BIN)/python -m tests fast

.PHONY: test-cluster
test-cluster: venv ## Tests on a real control plane with simulated GPU nodes.
	@$(BIN)/python -m tests cluster

.PHONY: test-e2e
test-e2e: venv ## Tests on a real node with real vLLM behind a real gateway.
	@$(BIN)/python -m tests e2e

.PHONY: test-catalogue
test-catalogue: venv ## Each vLLM's own parser reads every option as the operator writes it (nightly; VERSIONS="0.33.0 …": these only).
	@$(BIN)/python -m tests.catalogue check $(VERSIONS)

.PHONY: verify
verify: venv ## Formatting, lint, types, layering, and that generated files are up to date.
	@$(BIN)/python -m tests verify

.PHONY: generate
generate: venv ## Write the CRD, its chart copy, RBAC and the reference documentation anew.
	@$(BIN)/python -m vllm_operator.generate

.PHONY: catalogue
catalogue: venv ## Write the options of vLLM versions anew, or add one: VERSIONS=0.33.0.
	@$(BIN)/python -m tests.catalogue write $(VERSIONS)

.PHONY: format
format: venv ## Format the code.
	@$(BIN)/ruff format operator tests
	@$(BIN)/ruff check --fix operator tests

.PHONY: bench
bench: venv ## Benchmarks on the local control plane, as JSON lines (kept in docs/benchmarks.md).
	@$(BIN)/python -m tests.bench

.PHONY: soak
soak: venv ## 200 requests a second at the gateway while everything behind it changes; MINUTES and RATE change how long and how many.
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) --rate $(or $(RATE),200)

.PHONY: cluster-up
cluster-up: venv ## Start the local cluster (real control plane, simulated GPU nodes, one real node, gateway).
	@$(BIN)/python -m tests.cluster up

.PHONY: cluster-down
cluster-down: venv ## Stop the local cluster and remove what it left.
	@$(BIN)/python -m tests.cluster down

.PHONY: image
image: venv ## Build the operator's image for the local cluster.
	@$(BIN)/python -m tests.cluster image

.PHONY: lock
lock: venv ## Resolve the dependencies anew and write the lock files.
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.lock
	@$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra dev --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements.lock -o requirements-dev.lock

.PHONY: venv
venv: $(VENV)/.complete ## The Python environment that everything else uses.

# The folder is named by the lock's content, so a checkout that is merely newer needs no other.
$(VENV)/.complete: | $(LOCK)
	@echo "making the Python environment in $(VENV)"
	@test -n "$(PYTHON)" || { echo "python3 (3.11 or later) is missing: install it, e.g. apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@mkdir -p "$(CACHE)"
	@$(PYTHON) -m venv --clear "$(VENV)" || { echo "python3's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK)
	@touch $@
