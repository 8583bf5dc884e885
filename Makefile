# Start with `make demo` and `make test`. Everything is written to .venv, build and dist.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null && echo $$p && break; done)
TORCH ?= 1
VENV := .venv
BIN := $(VENV)/bin
comma := ,
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
HASHED := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement
CODE := services tests loadtest docs helm/boards deploy/images protos/build.py hatch_build.py

.PHONY: help setup demo test check bench load attacks capacity up proto kernel format soak faults clients fuzz sanitize nano quality wheel images web docs clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "samserve requires Python 3.11, 3.12 or 3.13 with venv; install one, or name it: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Serving on this machine: neither torch nor transformers.
KERNELS := services/samserve/native/build.py $(wildcard services/samserve/codec/kernel/*.[ch] services/samserve/decoder/sam/kernel/*.[ch])
# All packages by their hashes first; then the project, which finds them.
$(VENV)/.local: pyproject.toml constraints.txt requirements/local.txt hatch_build.py protos/build.py $(wildcard protos/samserve/v1/*.proto protos/samserve/*/v1/*.proto) $(KERNELS) | $(BIN)/pip
	$(HASHED) requirements/local.txt
	$(PIP) --editable '.[local]'
	$(BIN)/python -m samserve.local.triton
	@touch $@

# Tests and checks. TORCH=0 leaves out training and export, which need torch, and skips their tests.
$(VENV)/.dev: requirements/dev.txt $(VENV)/.local
	$(if $(filter 0,$(TORCH)),,$(HASHED) requirements/dev.txt)
	$(PIP) --editable '.[dev$(if $(filter 0,$(TORCH)),,$(comma)train)]'
	@touch $@

setup: $(VENV)/.dev  ## create a development environment in .venv

demo: $(VENV)/.local  ## start the stack, segment the sample image, stop; writes build/demo
	$(BIN)/python -m samserve.local.demo

web: $(VENV)/.local  ## build the page and the npm package into services/samserve/web; needs npm's registry once
	$(BIN)/python services/web/build.py

up: $(VENV)/.local  ## run the stack until Ctrl-C
	$(BIN)/python services/web/build.py --optional
	$(BIN)/samserve up

test: $(VENV)/.dev  ## run every test, including the real stack
	$(BIN)/python services/web/build.py --optional
	$(BIN)/pytest

check: $(VENV)/.dev  ## check formatting, lint, types, imports, protos, docs, chart, kernels under sanitizers
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	PYTHONPATH=services $(BIN)/lint-imports pyproject.toml
	cd protos && ../$(BIN)/buf lint
	$(BIN)/python docs/build_configuration.py --check
	$(BIN)/pytest --quiet tests/chart
	PYTHONPATH=tests $(BIN)/python -m sanitize

format: $(VENV)/.dev  ## format the code
	$(BIN)/ruff check --fix --quiet $(CODE) || true
	$(BIN)/ruff format $(CODE)

proto: $(VENV)/.dev  ## generate services/samserve/v1
	$(BIN)/python protos/build.py

kernel: $(VENV)/.dev  ## compile the C kernels
	$(BIN)/python services/samserve/native/build.py

bench: $(VENV)/.dev  ## run the benchmarks; writes build/bench
	$(BIN)/python -m loadtest.bench.decoder
	$(BIN)/python -m loadtest.bench.click
	$(BIN)/python -m loadtest.bench.gateway
	$(BIN)/python -m loadtest.bench.edge
	$(BIN)/python -m loadtest.bench.affinity
	$(BIN)/python -m loadtest.bench.tenants
	$(BIN)/python -m loadtest.bench.embedding
	$(BIN)/python -m loadtest.bench.bulk
	$(BIN)/python -m loadtest.bench.image
	$(BIN)/python -m loadtest.bench.codec

load: $(VENV)/.dev  ## load-test a stack for a minute with ten annotators; writes build/load
	$(BIN)/python -m loadtest.load.run_load --users 10 --minutes 1

capacity: $(VENV)/.dev  ## measure and simulate the capacity of this (idle) machine, 40 minutes
	$(BIN)/python -m loadtest.capacity.calibrate
	$(BIN)/python -m loadtest.capacity.measure --decoders 1
	$(BIN)/python -m loadtest.capacity.measure --decoders 2
	$(BIN)/python -m loadtest.capacity.simulate --check
	$(BIN)/python -m loadtest.capacity.plan
	$(BIN)/python -m loadtest.capacity.document

soak: $(VENV)/.dev  ## check that memory stays flat under clicks and hostile images
	$(BIN)/python -m loadtest.load.soak
	PYTHONPATH=tests $(BIN)/python -m loadtest.load.hostile

attacks: $(VENV)/.dev  ## attack a stack in 20 ways while a person clicks; 8 minutes
	$(BIN)/python -m loadtest.attacks.run

faults: $(VENV)/.dev  ## break each part of the stack for 20 s under load
	FAULT_SECONDS=60 $(BIN)/pytest tests/faults -rP

clients: $(VENV)/.dev  ## run other products' own clients against a stack; keeps them in ~/.cache/samserve
	$(BIN)/pytest tests/clients

TIME ?= 600
fuzz: $(VENV)/.dev  ## fuzz everything that strangers send, TIME=600 seconds; keeps inputs in build/fuzz
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(TIME)

sanitize: $(VENV)/.dev  ## test the C kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	PYTHONPATH=tests $(BIN)/python -m sanitize

nano: $(VENV)/.dev  ## train nano on the photos in PHOTOS (resumes); then run samserve.training.publish
	$(BIN)/python -m samserve.training.train --photos $(PHOTOS)

quality: $(VENV)/.dev  ## measure nano's masks (and on photos: PHOTOS=FOLDER); writes build/quality
	$(BIN)/python -m loadtest.bench.quality $(if $(PHOTOS),--photos $(PHOTOS))

wheel: web  ## build the wheel, the page in it; writes dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

images: $(VENV)/.dev  ## build the images without Docker and get a mask from their containers (root; buildah, podman)
	$(BIN)/python deploy/images

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs  ## build the documentation as a site and check its links; writes build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

SUPPLY := build/supply
$(SUPPLY)/.done: requirements/supply.txt | $(BIN)/pip
	$(BIN)/python -m venv $(SUPPLY)
	$(SUPPLY)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements/supply.txt
	@touch $@

lock: $(SUPPLY)/.done  ## write the hashes of all packages, after a change of their versions; writes requirements
	PATH="$(CURDIR)/$(SUPPLY)/bin:$$PATH" $(SUPPLY)/bin/python requirements/lock.py
	$(BIN)/python docs/build_licences.py

sbom: $(SUPPLY)/.done  ## list all packages of each image as CycloneDX; writes build/sbom
	$(SUPPLY)/bin/python requirements/sbom.py

audit: $(SUPPLY)/.done  ## ask whether known faults are in the packages; needs the network
	$(SUPPLY)/bin/python requirements/audit.py

clean:  ## remove build results
	rm -rf build dist
