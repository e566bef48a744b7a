# Every target that needs Python makes its own environment in .venv; nothing else has to be set up first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint types bench docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## make .venv with nnReg and its development tools

$(INSTALLED): setup.py requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint requirements/constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

demo: setup ## synthetic data with known truth: plan, train, predict, evaluate, with pictures
	$(BIN)/nnreg_demo -o nnreg_demo

test: setup ## all fast tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: setup ## the tests that take longer
	$(BIN)/python -m pytest -m slow

lint: setup ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## static types
	$(BIN)/mypy

bench: setup ## kernels against naive versions (benchmarks/README.md names the others)
	$(BIN)/python benchmarks/kernels.py

docs: setup ## write the table of rules, check that every command and link of the documentation exists
	$(BIN)/python -c "from nnreg.planning.explain import update_page; update_page('documentation/planning.md')"
	$(BIN)/python -m pytest tests/documentation

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
