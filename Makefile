# make, make repro: the whole pipeline; make test: the tests. Every target creates .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# A stage runs `python`, which must be the environment's.
export PATH := $(abspath $(BIN)):$(PATH)
export VIRTUAL_ENV := $(abspath $(VENV))

# worksteal: each worker starts with a contiguous half, so that fixtures of a module are built once, and an idle worker
# takes over tests of the other.
WORKERS ?= 2
PYTEST := pytest -n $(WORKERS) --dist worksteal

.PHONY: repro test test-all record coverage lint types format generate hooks environment constraints clean
.DEFAULT_GOAL := repro

repro: $(READY)
	dvc repro

test: $(READY)
	$(PYTEST) -m "not slow"

# With the long proofs: dozens of killed runs, thousands of mutated files, whole runs on two hosts.
test-all: $(READY)
	TEST_EXAMPLES_FACTOR=3 $(PYTEST)

# The networks of benchmarks/RESULTS.md on Imagewoof: make record ARCHIVE=imagewoof2-160.tgz [EPOCHS=5] [SEEDS=5] [ABLATION=1]
record: $(READY)
	python benchmarks/record.py run .record $(ARCHIVE) --epochs $(or $(EPOCHS),5) --seeds $(or $(SEEDS),5) $(if $(ABLATION),--ablation)
	python benchmarks/record.py table

# Without the long proofs 93 % of lines and branches are covered; less means that a new part has no tests.
coverage: $(READY)
	$(PYTEST) -m "not slow" --cov --cov-report=term --cov-report=html --cov-fail-under=92

# None of these linters needs a network; zizmor's online audits would.
lint: $(READY)
	ruff check .
	ruff format --check .
	yamllint --strict .
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	zizmor --offline --quiet --pedantic .github

types: $(READY)
	mypy

format: $(READY)
	ruff check --fix .
	ruff format .

hooks: $(READY)
	pre-commit install

environment: $(READY)

# Rewrites what is derived from the schema: comments in params.yaml, recipes/digits.yaml, docs/parameters.md.
generate: $(READY)
	python tools/generate.py

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $(PYTHON) is `$(PYTHON) -V 2>&1`, allowed are Python 3.11 to 3.13; call make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Pins every package for Python 3.11 to 3.13; without the registry's address, so that any mirror works.
constraints:
	uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --upgrade --all-extras \
		--no-header --no-annotate --no-emit-index-url pyproject.toml --output-file constraints.txt

clean:
	rm -rf $(VENV) .nox *.egg-info htmlcov .coverage .coverage.*
