# One environment, made by plain pip with the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two spinning OpenMP threads on loaded cores were measured 2-6 times slower than one.
export OMP_NUM_THREADS ?= 1

.PHONY: install serve test check bench bench-gpu clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch first and by its exact version, so that no range ever asks for another build
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $(STAMP)

serve: install
	$(BIN)/darkroom serve

# Two processes: most tests wait for a server or a file half of their time. A file stays in one,
# and files go by their order, whose first are the slow ones.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Of a CPU. Either takes more words: make bench BENCH="--quick --only lora"
BENCH ?=
bench: install
	$(BIN)/python -m benchmarks cpu $(BENCH)

# On a machine with an NVIDIA GPU: make bench-gpu, or make bench-gpu BENCH=--quick
bench-gpu: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,cuda]'
	$(BIN)/python -m benchmarks gpu $(BENCH)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
