# Every target that needs Python makes its own environment in .venv; nothing else has to be set up first.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints.txt
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-lowest test-faults test-nightly lint types bench docs dist sbom audit clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## make .venv with nnReg and its development tools

$(INSTALLED): setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $(INSTALLED)

demo: setup ## synthetic data with known truth: plan, train, predict, evaluate, with pictures
	$(BIN)/nnreg_demo -o nnreg_demo

# a thread each: as many processes as cores are at work, and more threads would only wait for each other
test: setup ## all fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: setup ## the tests that take longer
	$(BIN)/python -m pytest -m slow

test-lowest: ## the fast tests with the oldest versions that setup.py admits
	$(MAKE) test VENV=$(VENV)-lowest CONSTRAINTS=requirements/lowest.txt

test-faults: setup ## kills at random moments, full disks, two at once, damaged files: minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz tests/faults tests/test_full_disk.py tests/test_seal.py tests/test_temporaries.py tests/test_lock.py tests/test_two_at_once.py
	$(BIN)/python -m tests.faults.kills 14

test-nightly: setup ## many more damaged files, kills and examples: hours
	$(BIN)/python -m tests.fuzz.trial 100000
	$(BIN)/python -m tests.faults.kills 210
	NNREG_EXAMPLES=5000 $(BIN)/python -m pytest tests/test_properties.py

lint: setup ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## static types
	$(BIN)/mypy

bench: setup ## kernels against naive versions (benchmarks/README.md names the others)
	$(BIN)/python benchmarks/kernels.py

docs: setup ## write the table of rules, check commands and links, make the site; a warning is an error
	$(BIN)/python -c "from nnreg.planning.explain import update_page; update_page('documentation/planning.md')"
	$(BIN)/python -m pytest tests/documentation
	$(BIN)/pip install --quiet --constraint requirements/constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

dist: setup ## source package and wheel, installed and tried in an environment of their own
	rm -rf dist $(VENV)-dist
	$(BIN)/pip install --quiet build
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/pip install --quiet --constraint requirements/constraints.txt dist/*.whl
	cd dist && ../$(VENV)-dist/bin/nnreg --version && ../$(VENV)-dist/bin/nnreg_list networks

sbom: setup ## sbom.json: every package of the environment, with version and licence (CycloneDX)
	$(PYTHON) -m venv $(VENV)-sbom
	$(VENV)-sbom/bin/pip install --quiet cyclonedx-bom
	$(VENV)-sbom/bin/cyclonedx-py environment --output-reproducible --output-file sbom.json $(BIN)/python

audit: setup ## known weaknesses of the packages of the environment (asks an online database)
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet pip-audit
	$(VENV)-audit/bin/pip-audit --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

clean: ## remove the environment and caches
	rm -rf $(VENV) $(VENV)-* dist sbom.json site .pytest_cache .mypy_cache .ruff_cache build *.egg-info
