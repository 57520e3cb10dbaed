# Everything a target needs is installed into .venv first, from requirements.lock, once and again when the lock or pyproject.toml changes.
# Variables: PYTHON=python3.11  CONFIG=ternary  PORT=4200  TEST_WORKERS=2  FUZZ=20  DATA=folder-of-official-splits
#            TORCH_BUILD=locked  UPGRADE=1  AUDIT_SERVICE=osv

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help discover test test-dft follow site fuzz ui lint benchmark train reproduce-dp-cdvae reproduce-unet reproduce-adaptive-cell reproduce-condition-cdvae reproduce-condition-cdvae-real lock audit

CONFIG ?= quickstart
PORT ?= 4200
TEST_WORKERS ?= 2
FUZZ ?= 20
PYTHON ?= $(firstword $(foreach p,python3 python3.11 python3.12,$(shell $(p) -c \
	'import sys; (3, 11) <= sys.version_info < (3, 13) and print("$(p)")' 2>/dev/null)))

BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
HASHED := $(PIP) install --no-deps --require-hashes
TORCH := $(shell sed -nE 's/^(torch==[^ ]+).*/\1/p' requirements.lock)
ROOMS := hullward flows tasks generative dft configs storage tests

help:
	@echo "make discover   a whole run: ranked new crystals with VASP inputs (CONFIG=quickstart)"
	@echo "make test       all tests but benchmarks"
	@echo "make test-dft   real DFT and a real Slurm, where their Debian packages are installed; else skipped, with the reason"
	@echo "make follow     the commands of the documentation, one after the other, in an empty folder"
	@echo "make site       the documentation as a site, in site/"
	@echo "make fuzz       damaged files, hostile input and odd queries, many of each, with counts (FUZZ=20 times \`make test\`'s)"
	@echo "make ui         Prefect server, worker and UI on this machine (PORT=4200)"
	@echo "make lint       ruff and mypy --strict"
	@echo "make benchmark  rates of sampling, relaxation, ..."
	@echo "make train      the shipped generators again: the symmetric one in minutes, the flow in two parts (needs HULLWARD_ASSETS)"
	@echo "make reproduce-dp-cdvae   the tables of DP-CDVAE, paper beside ours (needs HULLWARD_ASSETS, or DATA=FOLDER)"
	@echo "make reproduce-unet       the figures of conditional generation and modification (needs HULLWARD_ASSETS)"
	@echo "make reproduce-adaptive-cell  the results of the adaptive-cell paper (needs HULLWARD_ASSETS, or CHECKPOINT=FOLDER too)"
	@echo "make reproduce-condition-cdvae  the results of ConditionCDVAE+ on bilayers put together and labelled here"
	@echo "make reproduce-condition-cdvae-real  the same on monolayers and MP-20, with numbers of DFT (needs HULLWARD_ASSETS)"
	@echo "make lock       the lock files again, after a change of pyproject.toml (UPGRADE=1: newest allowed versions)"
	@echo "make audit      known advisories for every pin (exits 1 where there are any, 69 where not every pin is answered for)"

# torch goes first and alone, so that pip may take the build that is meant for this machine (a CPU build, say) or keep
# the one that is there: it is the one file that is not held to a digest, unless TORCH_BUILD=locked. All else is, so
# nothing else is looked for; what only another build of torch asks for (other CUDA libraries) comes with it at the end.
$(INSTALLED): pyproject.toml requirements.lock requirements-cuda.lock
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or 3.12 found: install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); ok or print("$(PYTHON) is Python %d.%d: Hullward needs 3.11 or 3.12; name one: make PYTHON=/path/to/python3.11" % sys.version_info[:2], file=sys.stderr); sys.exit(not ok)'
	@echo "Installing into .venv with $$("$(PYTHON)" --version) (once, some minutes) ..."
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv .venv
ifneq ($(TORCH_BUILD),locked)
	@echo "  $(TORCH)"
	@$(PIP) install --no-deps "$(TORCH)"
endif
	@echo "  $$(grep -c == requirements.lock) packages of requirements.lock"
	@$(HASHED) -r requirements.lock
	@if $(BIN)/python -c 'from importlib.metadata import version; raise SystemExit("+" in version("torch"))'; \
		then $(HASHED) -r requirements-cuda.lock; else $(PIP) install "$(TORCH)"; fi
	@$(PIP) install --no-deps --no-build-isolation -e .
	@$(PIP) check
	@touch $@

discover: $(INSTALLED)
	@$(BIN)/hullward discover $(CONFIG)

test: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder tests

test-dft: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m dft_real -rs tests/dft tests/flows/test_slurm_workers.py

follow: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.follow_docs

fuzz: $(INSTALLED)
	@HULLWARD_FUZZ=$(FUZZ) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) -m fuzz tests

ui: $(INSTALLED)
	@exec $(BIN)/python -m flows.servers.serve --port $(PORT)

lint: $(INSTALLED)
	@$(BIN)/ruff check $(ROOMS)
	@$(BIN)/ruff format --check $(ROOMS)
	@$(BIN)/mypy

benchmark: $(INSTALLED)
	@$(BIN)/python -m pytest -m benchmark -s tests

train: $(INSTALLED)
	@$(BIN)/hullward train train-hullward-wyckoff --out runs/training/hullward-wyckoff
	@$(BIN)/hullward train train-flow-start --out runs/training/hullward-flow-start
	@$(BIN)/hullward train train-flow --out runs/training/hullward-flow

reproduce-dp-cdvae: $(INSTALLED)
	@$(BIN)/hullward reproduce reproduce-dp-cdvae $(if $(DATA),--data "$(DATA)")

reproduce-unet: $(INSTALLED)
	@$(BIN)/hullward reproduce reproduce-unet

reproduce-adaptive-cell: $(INSTALLED)
	@$(BIN)/hullward reproduce reproduce-adaptive-cell $(if $(CHECKPOINT),--set checkpoint="$(CHECKPOINT)")

reproduce-condition-cdvae: $(INSTALLED)
	@$(BIN)/hullward ingest ingest-bilayers --limit 4000
	@$(BIN)/hullward reproduce reproduce-condition-cdvae

reproduce-condition-cdvae-real: $(INSTALLED)
	@$(BIN)/hullward reproduce reproduce-condition-cdvae-real

# Both need an index: the first for all versions and digests, the second for advisories. Each has tools of its own.
lock: .venv-lock/.installed
	@.venv-lock/bin/python .ci/write_lock.py $(if $(UPGRADE),--upgrade)
	@git --no-pager diff --stat -- requirements.lock requirements-cuda.lock

audit: .venv-audit/.installed
	@AUDIT_SERVICE="$(or $(AUDIT_SERVICE),pypi)" .venv-audit/bin/python .ci/audit.py

site: .venv-docs/.installed
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

.venv-lock/.installed: TOOLS = uv packaging
.venv-docs/.installed: TOOLS = $$("$(PYTHON)" -c 'import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
.venv-audit/.installed: TOOLS = pip-audit
.venv-docs/.installed: pyproject.toml
.venv-lock/.installed .venv-audit/.installed .venv-docs/.installed:
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or 3.12 found: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@rm -rf $(@D) && "$(PYTHON)" -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install $(TOOLS)
	@touch $@
