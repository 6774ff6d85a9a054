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

# Two processes: most tests wait for a server or a file half of their time. A file stays in one.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks.batching

# On a machine with an NVIDIA GPU: make bench-gpu MODELS=my.yaml MODEL=flux SIDE=1024 STEPS=28
MODELS ?= models.yaml
MODEL ?= tiny-flux
SIDE ?= 128
STEPS ?= 8
bench-gpu: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,cuda]'
	$(BIN)/python -m benchmarks.memory --device cuda:0 --models $(MODELS) --model $(MODEL)
	$(BIN)/python -m benchmarks.options --device cuda:0 --models $(MODELS) --model $(MODEL) \
		--side $(SIDE) --steps $(STEPS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
