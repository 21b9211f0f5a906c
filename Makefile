# `make up` sets everything up and starts this host's agent; `make test` runs the tests.
# Settings such as NATS_URL or MESH_HOSTNAME are taken from the environment and from env.shared.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
MESH := $(BIN)/pmoves-mesh
LOCKS := deploy/locks
SEEDS ?= 2000
# Tests wait more than they work, so there is one process more than there are cores.
JOBS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

# Stamps: each step runs again only when what it depends on has changed.
CREATED := $(VENV)/.created
INSTALLED := $(VENV)/.runtime
DEV := $(VENV)/.dev

.PHONY: help up down join registry-status mesh-setup mesh-status mesh-disconnect first-run-multi-host registry-sync nats-tls-setup test simulate lint bench screenshots lock
.DELETE_ON_ERROR:

help: ## Show these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r name what; do \
		printf '  %-20s %s\n' "$$name" "$$what"; \
	done

ifeq ($(RUNTIME),docker)
# The mesh's own services; other profiles of deploy/docker-compose.yml: PROFILES=nats,agents,data,monitoring.
PROFILES ?= $(if $(filter standalone,$(SERVICE_MODE)),standalone,$(DOCKED))
DOCKED := nats,monitoring
COMPOSE = COMPOSE_PROFILES=$(PROFILES) DOCKER_GID=$$(stat -c %g /var/run/docker.sock 2>/dev/null) \
	docker compose -f deploy/docker-compose.yml

up: ## Set everything up, start this host's agent and wait until it is ready (RUNTIME=docker: in containers)
	@$(COMPOSE) up --detach --build --wait

down: ## Stop the agent and its nats-server (RUNTIME=docker: the containers)
	@$(COMPOSE) down
else
up: $(INSTALLED)
	@$(MESH) up

down:
	@test -x $(MESH) || { echo "nothing is installed in $(VENV), so nothing runs" >&2; exit 1; }
	@$(MESH) down
endif

registry-status: $(INSTALLED) ## Show the mesh as this host sees it
	@$(MESH) status

join: $(INSTALLED) ## Make this host a node of a mesh: make join TOKEN=pmoves1-...
	@$(MESH) join $(TOKEN)

# The key goes through the environment, since arguments are seen by every user of the host.
mesh-setup first-run-multi-host: export TAILSCALE_AUTHKEY := $(or $(AUTHKEY),$(TAILSCALE_AUTHKEY))
mesh-setup: $(INSTALLED) ## Make this host part of the tailnet: make mesh-setup [AUTHKEY=...] [YES=1]
	@$(MESH) tailscale setup $(if $(YES),--yes)

first-run-multi-host: $(INSTALLED) ## All of it in one go: make first-run-multi-host [TOKEN=...] [AUTHKEY=...] [YES=1]
	@$(MESH) first-run $(if $(YES),--yes) $(if $(TOKEN),--token $(TOKEN))

mesh-status: $(INSTALLED) ## Show the mesh beside the tailnet, and where they disagree
	@$(MESH) tailscale status

mesh-disconnect: $(INSTALLED) ## Take this host out of the tailnet for now
	@$(MESH) tailscale down

registry-sync: $(INSTALLED) ## Bring stream, bucket and this host's agent into step
	@$(MESH) registry sync

nats-tls-setup: $(INSTALLED) ## Make the CA and this node's identity in PMOVES_TLS_DIR; what is there stays
	@$(MESH) certs init

# They start thousands of processes, so that whoever compiles a module first does so for all of them.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(DEV) ## Run every test; one whose real thing is not there says so
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

simulate: $(DEV) ## Play whole meshes in virtual time, a night long: make simulate SEEDS=100000
	@$(BIN)/python tests/simulation/seeds.py --seeds $(SEEDS)

lint: $(DEV) ## Check style, types, who imports whom, secrets in the tree and vulnerable dependencies
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python .ci/secret_scan.py
	@$(BIN)/python .ci/dependency_audit.py

bench: $(DEV) ## Measure against targets and peers, and write benchmarks/RESULTS.md (NAMES=lookup: some of it, to the screen)
	@$(BIN)/python -m benchmarks $(NAMES)

screenshots: $(DEV) ## Take the pictures in docs/screenshots/ anew, those that would show something else
	@$(BIN)/python tests/screenshots.py

lock: $(CREATED) ## Pin the dependencies anew (UV_FLAGS=--upgrade takes the newest)
	@$(PIP) install 'uv>=0.9'
	@sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml | $(UV_COMPILE) - --output-file $(LOCKS)/runtime.txt
	@$(UV_COMPILE) --extra dev --constraint $(LOCKS)/runtime.txt --output-file $(LOCKS)/dev.txt

UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command 'make lock' $(UV_FLAGS) pyproject.toml

# Debian keeps venv in a package of its own, which root can install at once.
$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or later is needed; name one with: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing python3-venv"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; \
		else \
			echo "Python's venv is missing; as root: apt-get install python3-venv" >&2; exit 1; \
		fi; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(INSTALLED): $(CREATED) $(LOCKS)/runtime.txt pyproject.toml
	@echo "installing the pinned dependencies into $(VENV)"
	@$(PIP) install --require-hashes -r $(LOCKS)/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(DEV): $(INSTALLED) $(LOCKS)/dev.txt
	@echo "installing the tools for tests into $(VENV)"
	@$(PIP) install --require-hashes -r $(LOCKS)/dev.txt
	@touch $@
