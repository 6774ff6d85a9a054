# One environment, made by plain pip with the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two spinning OpenMP threads on loaded cores were measured 2-6 times slower than one.
export OMP_NUM_THREADS ?= 1

.PHONY: install serve test check bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch first and by its exact version, so that no range ever asks for another build
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $(STAMP)

serve: install
	$(BIN)/darkroom serve

# Two processes: most tests wait for a server or a file half of their time. A file stays in one.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks.batching

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
