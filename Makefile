# Everything a target needs is installed into .venv first, from requirements.lock, once and again when the lock changes.
# Variables: PYTHON=python3.11  CONFIG=ternary  PORT=4200  TEST_WORKERS=2  FUZZ=20  DATA=folder-of-official-splits

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help discover test test-dft fuzz ui lint benchmark train reproduce-dp-cdvae reproduce-unet lock

CONFIG ?= quickstart
PORT ?= 4200
TEST_WORKERS ?= 2
FUZZ ?= 20
PYTHON ?= $(firstword $(foreach p,python3 python3.11 python3.12,$(shell $(p) -c \
	'import sys; (3, 11) <= sys.version_info < (3, 13) and print("$(p)")' 2>/dev/null)))

BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := $(shell sed -n '/^torch==/p' requirements.lock)
ROOMS := flows tasks generative dft configs storage tests

help:
	@echo "make discover   a whole run: ranked new crystals with VASP inputs (CONFIG=quickstart)"
	@echo "make test       all tests but benchmarks"
	@echo "make test-dft   real DFT and a real Slurm, where their Debian packages are installed; else skipped, with the reason"
	@echo "make fuzz       damaged files, hostile input and odd queries, many of each, with counts (FUZZ=20 times \`make test\`'s)"
	@echo "make ui         Prefect server, worker and UI on this machine (PORT=4200)"
	@echo "make lint       ruff and mypy --strict"
	@echo "make benchmark  rates of sampling, relaxation, ..."
	@echo "make train      the shipped generator again, in its two parts (needs HULLWARD_ASSETS)"
	@echo "make reproduce-dp-cdvae   the tables of DP-CDVAE, paper beside ours (needs HULLWARD_ASSETS, or DATA=FOLDER)"
	@echo "make reproduce-unet       the figures of conditional generation and modification (needs HULLWARD_ASSETS)"
	@echo "make lock       newest allowed versions into requirements.lock"

# torch goes first and alone, so that a torch that is there already (a CPU build, say) is kept by what follows.
$(INSTALLED): requirements.lock
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or 3.12 found: install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); ok or print("$(PYTHON) is Python %d.%d: Hullward needs 3.11 or 3.12; name one: make PYTHON=/path/to/python3.11" % sys.version_info[:2], file=sys.stderr); sys.exit(not ok)'
	@echo "Installing into .venv with $$("$(PYTHON)" --version) (once, some minutes) ..."
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv .venv
	@echo "  $(TORCH)"
	@$(PIP) install "$(TORCH)"
	@echo "  $$(grep -c == requirements.lock) packages of requirements.lock"
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps -e .
	@$(PIP) check
	@touch $@

discover: $(INSTALLED)
	@$(BIN)/hullward discover $(CONFIG)

test: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder tests

test-dft: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m dft_real -rs tests/dft

fuzz: $(INSTALLED)
	@HULLWARD_FUZZ=$(FUZZ) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) -m fuzz tests

ui: $(INSTALLED)
	@exec $(BIN)/python -m flows.serve --port $(PORT)

lint: $(INSTALLED)
	@$(BIN)/ruff check $(ROOMS)
	@$(BIN)/ruff format --check $(ROOMS)
	@$(BIN)/mypy

benchmark: $(INSTALLED)
	@$(BIN)/python -m pytest -m benchmark -s tests

train: $(INSTALLED)
	@$(BIN)/hullward train train-flow-start --out runs/training/hullward-flow-start
	@$(BIN)/hullward train train-flow --out runs/training/hullward-flow

reproduce-dp-cdvae: $(INSTALLED)
	@$(BIN)/hullward reproduce reproduce-dp-cdvae $(if $(DATA),--data "$(DATA)")

reproduce-unet: $(INSTALLED)
	@$(BIN)/hullward reproduce reproduce-unet

# Packages that torch pins itself (its CUDA libraries) and build numbers such as +cpu differ between machines: left out.
lock:
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or 3.12 found: make PYTHON=/path/to/python3.11 lock" >&2; exit 1; }
	@rm -rf .venv-lock && "$(PYTHON)" -m venv .venv-lock
	@.venv-lock/bin/python -m pip --disable-pip-version-check --quiet install "$(TORCH)"
	@.venv-lock/bin/python -m pip --disable-pip-version-check --quiet install -e ".[dev]"
	@{ echo "# Exact versions of everything, for Python 3.11 and 3.12; written by \`make lock\`. torch is installed first, alone."; \
		.venv-lock/bin/python -m pip --disable-pip-version-check freeze --all --exclude pip --exclude wheel --exclude hullward \
		| sed -E '/^-e|@|^(nvidia-[a-z0-9-]+-cu[0-9]+|nvidia-(cu|nccl|nvshmem|nvjit)[a-z0-9-]*|cuda-[a-z-]+|triton)==/d; s/\+[a-z0-9.]+$$//' \
		| LC_ALL=C sort -f; } > requirements.lock.new
	@rm -rf .venv-lock && mv requirements.lock.new requirements.lock
	@git --no-pager diff --stat -- requirements.lock
