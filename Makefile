# SPDX-License-Identifier: Apache-2.0
# `make help` lists what there is. Everything installed goes into .venv, everything built into the user's cache folder.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip --no-input -q
ARGS ?=

# What is installed is known by the hash of the files that say what to install: a change of them installs anew.
hash = $(shell cat $(1) 2>/dev/null | sha256sum | cut -c1-16)
RUN_LOCKS := requirements/agent.txt requirements/build.txt
TEST_LOCKS := $(filter-out requirements/lock.txt requirements/demo.txt requirements/apt.txt $(RUN_LOCKS),$(wildcard requirements/*.txt))
RUN_STAMP := $(VENV)/.installed-run-$(call hash,pyproject.toml $(RUN_LOCKS))
TEST_STAMP := $(VENV)/.installed-test-$(call hash,pyproject.toml $(RUN_LOCKS) $(TEST_LOCKS))

# $(call phase,NAME,COMMAND): runs it and says on stderr how long it took.
phase = started=$$SECONDS; printf '== %s\n' '$(1)' >&2; $(2); printf '== %s: %d s\n' '$(1)' $$((SECONDS - started)) >&2

.PHONY: help setup setup-test demo test unit kernel vm cluster chart images e2e lint lint-ruff lint-format lint-types \
	lint-layers lint-c lint-spelling lint-shell lint-docker lint-protos format protos bench bench-check scale fuzz profiles matrix lock crds chart-docs \
	changelog clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- set up --------------------------------------------------------------------------------------------------------

setup: ## install what the agent needs: Debian packages (as root), .venv, the command kernelspan in it
	@$(call phase,packages of the distribution,tools/apt run)
	@$(MAKE) -s $(RUN_STAMP)
	@echo '== $(VENV)/bin/kernelspan is there' >&2

# What the tests run; what only `make e2e` and `make scale` need is built by them.
TEST_TOOLS := collector etcd helm jaeger kubernetes
setup-test: setup ## install what the tests need beyond that, and build the Go programs they run into the user's cache
	@$(call phase,packages for the tests,tools/apt test)
	@$(MAKE) -s $(TEST_STAMP)
	@$(call phase,tools,$(PY) -m tools $(TEST_TOOLS) >/dev/null || echo 'tools: going on; what needs them is left out or fails' >&2)

$(PY):
	@$(call phase,virtual environment,tools/venv '$(PYTHON)' $(VENV))

$(RUN_STAMP): | $(PY)
	@$(call phase,agent,$(PIP) install --require-hashes $(RUN_LOCKS:%=-r %) && \
		$(PIP) install --no-deps --no-build-isolation -e .)
	@rm -f $(VENV)/.installed-run-* && touch $@

$(TEST_STAMP): $(RUN_STAMP)
	@$(call phase,Python packages for the tests,$(PIP) install --require-hashes $(TEST_LOCKS:%=-r %))
	@rm -f $(VENV)/.installed-test-* && touch $@

# --- use and test --------------------------------------------------------------------------------------------------

demo: setup ## trace a small shop of three services and a database, and print a trace through all of them as a tree
	@$(call phase,packages for the demo,tools/apt demo)
	@examples/demo/run $(ARGS)

# The last line of the output is pytest's own summary. E2E=1: with the kind cluster of `make e2e`, last.
test: setup-test ## lint and every tier of tests this machine can run; names what it left out
	@$(if $(E2E),$(call phase,packages for the cluster,tools/apt e2e))
	@$(PY) -m pytest tests/lint tests/unit $(wildcard tests/kernel tests/vm) tests/cluster tests/chart $(if $(E2E),kind-e2e) $(ARGS)

unit: $(TEST_STAMP) ## the unit tests
	@$(PY) -m pytest tests/unit $(ARGS)

kernel: setup-test ## the tests on this machine's kernel (as root)
	@$(PY) -m pytest tests/kernel $(ARGS)

vm: setup-test ## the tests on the kernels of virtual machines (as root)
	@$(PY) -m pytest tests/vm $(ARGS)

cluster: setup-test ## the tests on a Kubernetes API of their own
	@$(PY) -m pytest tests/cluster $(ARGS)

chart: setup-test ## the tests of the Helm chart, on a Kubernetes API of their own
	@$(PY) -m pytest tests/chart $(ARGS)

# KIND=name: and give them to the nodes of that kind cluster.
images: setup ## make the container images, from Debian's packages and the locks (as root); KIND=name loads them there
	@$(call phase,packages for images,tools/apt e2e)
	@$(PY) -m tools.images $(if $(KIND),--kind $(KIND)) $(ARGS)

e2e: setup-test ## all of it in a kind cluster of its own, Jaeger included (as root)
	@$(call phase,packages for the cluster,tools/apt e2e)
	@$(PY) -m pytest kind-e2e $(ARGS)

bench: setup-test ## measure; writes bench/results and the plots
	@$(PY) -m bench $(ARGS)

bench-check: setup-test ## measure and compare with the lines to hold
	@$(PY) -m bench --check $(ARGS)

scale: setup-test ## measure the operator on a real API server: 1,000 nodes, 30,000 pods, 100 profiles, 1,000 agents
	@$(PY) -m bench.scale $(ARGS)

FOR ?= 600
PROBES ?= 240
fuzz: $(TEST_STAMP) ## look for inputs that break us, round after round of new ones: make fuzz FOR=600 (seconds); as root also PROBES=240 random probes a round
	@end=$$((SECONDS + $(FOR))); while [ $$SECONDS -lt $$end ]; do \
		$(PY) -m pytest tests/unit -m hypothesis --hypothesis-profile=fuzz -q $(ARGS) || exit; \
		if [ "$$(id -u)" = 0 ]; then $(PY) -m tests.support.own_generation $(PROBES) || exit; fi; done

COUNT ?= 10000
profiles: $(TEST_STAMP) ## generate and compile that many random valid profiles (as root), going on where it was stopped: make profiles COUNT=10000
	@$(PY) -m tests.support.many_profiles $(COUNT)

matrix: setup-test ## every version of every runtime and kernel; `make test` takes oldest, newest and one between
	@KERNELSPAN_MATRIX=all $(PY) -m pytest $(wildcard tests/kernel tests/vm) $(ARGS)

# --- keep clean ----------------------------------------------------------------------------------------------------

lint: lint-ruff lint-format lint-types lint-layers lint-c lint-spelling lint-shell lint-docker lint-protos ## every check of the source, as in `make test`

lint-ruff: $(TEST_STAMP)
	@$(PY) -m ruff check --quiet

lint-format: $(TEST_STAMP)
	@$(PY) -m ruff format --check --quiet || { $(PY) -m ruff format --diff --quiet; exit 1; }

lint-types: $(TEST_STAMP)
	@$(PY) -m mypy --no-error-summary

lint-layers: $(TEST_STAMP)
	@$(VENV)/bin/lint-imports --cache-dir .import_linter_cache

BPF_SOURCES = $(shell git ls-files --cached --others --exclude-standard 'bpf/*.c' 'bpf/*.h' ':!bpf/shim')
lint-c: $(TEST_STAMP)
	@$(if $(BPF_SOURCES),$(VENV)/bin/clang-format --dry-run -Werror $(BPF_SOURCES))

lint-spelling: $(TEST_STAMP)
	@git ls-files -z --cached --others --exclude-standard | xargs -0 $(VENV)/bin/codespell

SHELL_SOURCES = $(shell git grep -nIE --untracked '^\#!.*\b(ba)?sh$$' | sed -n 's/:1:.*//p')
lint-shell:
	@for file in $(SHELL_SOURCES); do bash -n "$$file"; done

lint-docker: $(TEST_STAMP)
	@git ls-files -z --cached --others --exclude-standard '*Dockerfile' | xargs -0 $(VENV)/bin/hadolint

lint-protos: $(TEST_STAMP)
	@$(VENV)/bin/buf lint protos

format: $(TEST_STAMP) ## put Python and C into the house's form
	@$(PY) -m ruff check --fix-only --quiet
	@$(PY) -m ruff format --quiet
	@$(if $(BPF_SOURCES),$(VENV)/bin/clang-format -i $(BPF_SOURCES))

protos: $(TEST_STAMP) ## make the code of protos/ anew
	@$(PY) -m tools.protos

COMPILE = $(abspath $(PY)) -m piptools compile --quiet --strip-extras --allow-unsafe --generate-hashes --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options
LATER_LOCKS := build test lint lock demo
lock: $(RUN_STAMP) ## renew the locked requirements (make lock ARGS=--upgrade for newer versions)
	@$(PIP) install --require-hashes -r requirements/lock.txt
	@$(COMPILE) $(ARGS) --extra agent --extra telemetry -o requirements/agent.txt pyproject.toml
	@$(COMPILE) $(ARGS) --extra operator --extra operator-telemetry --constraint requirements/agent.txt -o requirements/operator.txt pyproject.toml
	@cd requirements && for name in $(LATER_LOCKS); do $(COMPILE) $(ARGS) -o $$name.txt $$name.in; done
	@cd bench && $(COMPILE) $(ARGS) -o sdk.txt sdk.in

chart-docs: $(RUN_STAMP) ## write docs/reference/chart.md from the chart's values.yaml
	@$(PY) -m tools.values docs/reference/chart.md

crds: $(RUN_STAMP) ## write charts/kernelspan/files/crds and the reference page from the types
	@$(PY) -m kernelspan_api.crd charts/kernelspan/files/crds
	@$(PY) -m kernelspan_api.reference docs/reference/traceprofile.md

changelog: $(RUN_STAMP) ## fold changelog.d into CHANGELOG.md: make changelog VERSION=0.1.0
	@$(PIP) install --require-hashes -r requirements/lock.txt
	@$(PY) -m towncrier build --yes --version $(VERSION)

clean: ## remove .venv and every cache in the checkout
	@rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
