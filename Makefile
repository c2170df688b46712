# make demo: the first taste; make table1: the main job; make all: everything in the paper, and the report; make test: the
# default tests. All work from any folder with -C.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
ROOT := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
VENV := $(ROOT).venv
BIN := $(VENV)/bin
# Cores and anything else for Snakemake, such as SNAKEMAKE_ARGS="--config seeds=5".
CORES ?= all
SNAKEMAKE_ARGS ?=
SNAKEMAKE = cd $(ROOT) && $(BIN)/snakemake --cores $(CORES) --quiet rules host

# The Python of .venv instead of the newest that is found, such as PYTHON=python3.12; and how to install: SETUP_ARGS=--help.
PYTHON ?=
SETUP_ARGS ?=
# Arguments of the benchmarks, such as BENCH_ARGS="choices --rounds 3" or BENCH_ARGS=--check.
BENCH_ARGS ?=
# Arguments of the report, such as REPORT_ARGS="--experiment small --allow-missing".
REPORT_ARGS ?=

.PHONY: help setup demo table1 all report docs bench test test-all lint

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 20

setup: $(VENV)/.ready ## Create .venv with the pinned environment

$(VENV)/.ready: $(ROOT)constraints.txt $(ROOT)pyproject.toml $(ROOT)tools/bootstrap.py $(ROOT)evaluation/sandbox/packages.py
	PYTHON="$(PYTHON)" $(ROOT)tools/setup.sh $(SETUP_ARGS)

demo: setup ## LoRA against BeamLoRA on a small stand-in: a minute, no network
	$(SNAKEMAKE) --configfile config/demo.yaml $(SNAKEMAKE_ARGS) -- reproduce_table1

table1: setup ## Table 1 of the default experiment (tiny)
	$(SNAKEMAKE) $(SNAKEMAKE_ARGS) -- reproduce_table1

all: setup ## Every table, figure and claim of the default experiment (tiny), and the report
	$(SNAKEMAKE) $(SNAKEMAKE_ARGS) -- reproduce_all

report: setup ## The report alone, from the records that are there
	cd $(ROOT) && $(BIN)/python -m harness.report $(REPORT_ARGS)

docs: setup ## The documentation as a site, in build/docs
	cd $(ROOT) && $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	cd $(ROOT) && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --site-dir build/docs

bench: setup ## Time and memory beside PEFT, transformers and lm-eval on this machine, in results/bench
	cd $(ROOT) && OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(BENCH_ARGS)

test: setup ## The default tests
	cd $(ROOT) && $(BIN)/python -m pytest

test-all: setup ## The default tests and the slow ones
	cd $(ROOT) && $(BIN)/python -m pytest -m "slow or not slow"

lint: setup ## Ruff (rules and format), mypy and Snakemake's linter
	cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/snakemake --lint
