# Everything that Driftloop's developers and first users run. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

CLUSTER ?= auto
PYTHON := .venv/bin/python
TESTCLUSTER := PYTHONPATH=tests python3 -m testcluster
# In the order of tests/conftest.py, not the largest file first. Three on two cores: each waits a third of its time.
PARALLEL := -n 3 --no-loadscope-reorder --durations 20
TESTS := tests/unit tests/control_plane tests/cluster
PART ?= all
# Parts that need no cluster.
PURE_PARTS := autoscaling entrypoints exactness fuzz gateway memory scale trackers
export PYTHONUNBUFFERED := 1
# Some shells forbid Python to keep what it compiled: every process of a test then compiled torch anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE
# Types of torch and its kind take more than a minute to read anew in each checkout.
export MYPY_CACHE_DIR ?= $(HOME)/.cache/driftloop/mypy

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16
	@echo
	@echo 'Variables: CLUSTER=auto|current|kind|local, DATA=FOLDER and SHIFT=FOLDER (demo on your own data), PARALLELISM=pipeline=2, ENGINE=vllm, CONTROLS=1, PART=NAME (test-long)'

.venv/ready: constraints-dev.txt pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: apt-get install python3'; exit 1; }
	@python3 -c 'import ensurepip' 2>/dev/null || { echo 'python3-venv is needed: apt-get install python3-venv'; exit 1; }
	@echo 'Setting up .venv (torch is large: minutes the first time)'
	@test -x $(PYTHON) || python3 -m venv .venv
	@.venv/bin/pip install -q --disable-pip-version-check uv==0.13.9
	@.venv/bin/uv pip install -q -p $(PYTHON) -r constraints-dev.txt
	@.venv/bin/uv pip install -q -p $(PYTHON) --no-deps -e .
	@touch $@

.PHONY: venv
venv: .venv/ready ## Make the virtual environment .venv with all extras.

.PHONY: demo
demo: .venv/ready ## The main job: the whole loop on a cluster, with a report (build/demo/report.json).
	@CLUSTER=$(CLUSTER) PYTHONPATH=examples:tests:operator $(PYTHON) -m demo $(if $(DATA),--data $(DATA)) $(if $(SHIFT),--shift $(SHIFT)) $(if $(PARALLELISM),--parallelism '$(PARALLELISM)') $(if $(ENGINE),--engine $(ENGINE)) $(if $(CONTROLS),--controls)

.PHONY: test
test: ## Lint, then every level of tests: unit, control_plane, cluster, and a short loop.
	@$(MAKE) --no-print-directory -j3 lint collect images
	$(PYTHON) -m pytest $(PARALLEL) $(TESTS)

# What can't be imported is named before anything starts. And Python compiles torch and its kin here, once, while the
# cluster starts: each of the processes that run the tests took half a minute for it.
.PHONY: collect
collect: .venv/ready
	@told=$$($(PYTHON) -m pytest --collect-only -qq $(TESTS) $(CHOICE) 2>&1) || { echo "$$told"; exit 1; }

.PHONY: test-long
test-long: collect ## What takes longer, by part: PART=faults (default: all). docs/testing.md lists the parts.
	@$(if $(filter $(PURE_PARTS),$(PART)),,$(MAKE) --no-print-directory images)
	$(PYTHON) -m pytest $(PARALLEL) $(TESTS) --part $(PART)

test-long: CHOICE := --part $(PART)

.PHONY: test-unit
test-unit: .venv/ready ## The pure tests.
	$(PYTHON) -m pytest $(PARALLEL) tests/unit

.PHONY: lint
lint: .venv/ready ## ruff, mypy --strict, the layers, and what is generated.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy operator trainer_image server_image tests examples
	PYTHONPATH=operator:trainer_image:server_image .venv/bin/lint-imports
	PYTHONPATH=operator $(PYTHON) -m driftloop.cli.main crds --check

.PHONY: crds
crds: .venv/ready ## Generate crds/ and the chart's copies from the models, and from the chart deploy/.
	PYTHONPATH=operator $(PYTHON) -m driftloop.cli.main crds
	$(PYTHON) deploy/generate.py

.PHONY: lock
lock: .venv/ready ## Resolve pyproject.toml into constraints.txt (images) and constraints-dev.txt (.venv).
	.venv/bin/uv pip compile -q pyproject.toml --extra operator --extra trainer --extra server \
		-o constraints.txt --no-header --no-annotate
	.venv/bin/uv pip compile -q pyproject.toml --all-extras -c constraints.txt \
		-o constraints-dev.txt --no-header --no-annotate

VLLM := tests/testcluster/vllm
.PHONY: lock-vllm
lock-vllm: .venv/ready ## Resolve vLLM for CPUs into the requirements of its image, with hashes.
	.venv/bin/uv pip compile -q $(VLLM)/requirements.in --override $(VLLM)/overrides.txt --python-version 3.11 \
		--generate-hashes --no-header --no-annotate -o $(VLLM)/requirements.txt

.PHONY: cluster
cluster: ## Start a two-node cluster (CLUSTER=current|kind|local).
	$(TESTCLUSTER) --provider $(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## Stop it and leave nothing behind.
	$(TESTCLUSTER) --provider $(CLUSTER) down

.PHONY: images
images: cluster ## Build the images and load them into the cluster.
	$(TESTCLUSTER) --provider $(CLUSTER) images
