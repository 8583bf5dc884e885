# The two that matter: `make demo` and `make test`. Everything lives in .venv and build/.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
CODE := services tests loadtest helm/boards protos/build.py hatch_build.py

.PHONY: help setup demo test check bench load capacity up proto kernel format soak faults quality clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "samserve's pinned versions need Python 3.11: install it, or name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# what serving on this machine needs: neither torch nor transformers
KERNELS := services/samserve/native/build.py $(wildcard services/samserve/codec/kernel/*.[ch] services/samserve/decoder/sam/kernel/*.[ch])
$(VENV)/.local: pyproject.toml constraints.txt hatch_build.py protos/build.py $(wildcard protos/samserve/v1/*.proto) $(KERNELS) | $(BIN)/pip
	$(PIP) --editable '.[local]'
	$(BIN)/python -m samserve.local.triton
	@touch $@

# what tests, checks and training need on top
$(VENV)/.dev: $(VENV)/.local
	$(PIP) --editable '.[dev]'
	@touch $@

setup: $(VENV)/.dev  ## a development environment in .venv

demo: $(VENV)/.local  ## start the stack, segment the sample photo, stop: build/demo/overlay.png and result.json
	$(BIN)/python -m samserve.local.demo

up: $(VENV)/.local  ## the stack, until Ctrl-C
	$(BIN)/samserve up

test: $(VENV)/.dev  ## every test, the real stack among them
	$(BIN)/pytest

check: $(VENV)/.dev  ## formatting, lint, types, protos, images, chart
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	PYTHONPATH=services $(BIN)/lint-imports pyproject.toml
	cd protos && ../$(BIN)/buf lint
	$(BIN)/pytest --quiet tests/chart

format: $(VENV)/.dev  ## put the code in order
	$(BIN)/ruff check --fix --quiet $(CODE) || true
	$(BIN)/ruff format $(CODE)

proto: $(VENV)/.dev  ## generate services/samserve/v1 anew
	$(BIN)/python protos/build.py

kernel: $(VENV)/.dev  ## compile the kernels anew
	$(BIN)/python services/samserve/native/build.py

bench: $(VENV)/.dev  ## measurements on this machine, to build/bench
	$(BIN)/python loadtest/bench_decoder.py
	$(BIN)/python loadtest/bench_click.py
	$(BIN)/python loadtest/bench_embedding.py
	$(BIN)/python loadtest/bench_many.py
	$(BIN)/python loadtest/bench_image.py
	$(BIN)/python loadtest/bench_codec.py

load: $(VENV)/.dev  ## ten annotators for a minute against a stack of its own: build/load/report.html
	$(BIN)/python loadtest/load.py --users 10 --minutes 1

capacity: $(VENV)/.dev  ## what this machine carries, and whether the simulator says so; 40 minutes, for a machine with nothing else to do
	$(BIN)/python loadtest/calibrate.py
	$(BIN)/python loadtest/capacity.py --decoders 1
	$(BIN)/python loadtest/capacity.py --decoders 2
	$(BIN)/python loadtest/simulator.py --check
	$(BIN)/python loadtest/plan.py
	$(BIN)/python loadtest/figures.py

soak: $(VENV)/.dev  ## whether memory stays flat, under clicks and under hostile images, to build/bench
	$(BIN)/python loadtest/soak.py
	PYTHONPATH=tests $(BIN)/python loadtest/hostile.py

faults: $(VENV)/.dev  ## each part of the stack broken for 20 s within a minute of load
	FAULT_SECONDS=60 $(BIN)/pytest tests/faults -rP

quality: $(VENV)/.dev  ## nano measured through the whole stack, to build/quality
	$(BIN)/python loadtest/nano_quality.py

clean:  ## remove what was built
	rm -rf build dist
