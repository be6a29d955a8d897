# Every target makes what it needs: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Test processes side by side; each starts the brokers and clusters that its files ask for.
TEST_JOBS ?= 2
.DEFAULT_GOAL := help

.PHONY: help demo demo-cluster test lint e2e e2e-full bench bench-operator bench-scaling chaos dev openapi reference site crds charts manifests release-check lock clean

help: ## Show this list
	@grep -E '^[a-z0-9-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: $(VENV)/.runtime ## Run the quickstart deployment on this machine, narrated, and clean up
	@$(BIN)/python examples/quickstart/demo.py

demo-cluster: $(VENV)/.dev ## Run the quickstart on a cluster (this machine's own, or kind), narrated, and clean up
	@$(BIN)/python -m e2e.demo

test: lint ## Run every check: style, types, import contracts, all test suites
	$(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile

lint: $(VENV)/.dev ## Style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

e2e: $(VENV)/.dev ## Run the short end-to-end scenario on a cluster (this machine's own, kind, or KUBECONFIG's)
	$(BIN)/python -m pytest -q e2e/scenarios

e2e-full: $(VENV)/.dev ## Run all end-to-end scenarios (about 20 minutes)
	LLAMADEPLOY_E2E=full $(BIN)/python -m pytest -q e2e/scenarios

bench: $(VENV)/.dev ## Measure against llama-deploy 0.8.1 and Dramatiq, then a soak of 200,000 tasks (about 25 minutes)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.brokers
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m benchmarks.image

bench-operator: $(VENV)/.dev ## Measure the operator with 1,000 Deployments on a real API server (about 10 minutes, the first time 15)
	$(BIN)/python -m benchmarks.operator

bench-scaling: $(VENV)/.dev ## Measure the autoscaler on real processes, then simulate it beside HPA's and KEDA's rules (about five minutes)
	$(BIN)/python -m benchmarks.scaling.live
	$(BIN)/python -m benchmarks.scaling

chaos: $(VENV)/.dev ## Kill, stop and cut off everything under load on real brokers (about 25 minutes)
	$(BIN)/python -m chaos

dev: $(VENV)/.dev ## Make the development environment in .venv

openapi: $(VENV)/.dev ## Write docs/apiserver.json and docs/control_plane.json
	$(BIN)/python -m llamadeploy.api_server.openapi docs

reference: $(VENV)/.dev ## Write docs/reference/*.md from the definitions, the settings and the OpenAPI documents
	$(BIN)/python -m docs.site

site: $(VENV)/.dev ## Build docs/ as a web site into dist/site, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

crds: $(VENV)/.dev ## Write crds/*.yaml from the models
	$(BIN)/python -m llamadeploy_operator.models.crd crds

charts: $(VENV)/.dev ## Write what the charts take from the code: definitions, rights, tables of values
	$(BIN)/python -m helm.generate

manifests: $(VENV)/.dev ## Render dist/crds.yaml and dist/install.yaml from the charts, for kubectl apply
	$(BIN)/python -m helm.manifests dist

release-check: $(VENV)/.dev ## Check version, changelog, locks, charts and compatibility; write dist/sbom.cdx.json
	$(BIN)/python -m release

lock: $(VENV)/.dev ## Renew requirements/*.lock from pyproject.toml
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header pyproject.toml -o requirements/runtime.lock
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header pyproject.toml --group dev -c requirements/runtime.lock \
	  -o requirements/dev.lock
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --group docs -c requirements/dev.lock \
	  -o requirements/docs.lock
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate pyproject.toml --extra redis --extra rabbitmq \
	  --extra postgresql --extra operator -c requirements/runtime.lock -o requirements/image.lock
	echo 'hatchling>=1.27' | $(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate - -o requirements/build.lock

clean: ## Remove environments and caches of this checkout
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# uv resolves and installs in seconds where pip takes half a minute; it comes by pip itself.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}; set PYTHON=python3.12 or the like") if v < (3, 11) else None'
	@echo "Making the environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check "uv>=0.5"

$(VENV)/.runtime: requirements/runtime.lock pyproject.toml | $(BIN)/uv
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --require-hashes -r requirements/runtime.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock requirements/docs.lock $(VENV)/.runtime
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --require-hashes -r requirements/dev.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --require-hashes -r requirements/docs.lock
	@touch $@
