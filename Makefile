# Every command a person needs; `make` alone lists them.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python on this machine that the project supports and that can make an environment.
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python; do \
	if $$python -c '$(SUPPORTED)' >/dev/null 2>&1; then echo $$python; break; fi; done)

VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# Test processes; each runs one torch thread.
WORKERS ?= 2
EMBEDDED := $(patsubst %,assets/tiny_%/model_index.json,wan hunyuan_video cogvideox_i2v)
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -q

# What the benchmarks measure; with SMOKE=1 a tiny model on a CPU, in seconds, to see that they run.
BENCH_MODELS ?= hunyuan_video_t2v,wan_t2v_14b,cogvideox1_5_i2v,wan_i2v_14b_720p,cosmos_t2w_14b
BENCH_VIDEOS ?= cogvideox1_5_i2v
BENCH_BACKEND ?= triton_block_sparse
# Whether PyTorch compiles the blocks first, as svg.attach(..., compile=True) does.
BENCH_COMPILE ?= true
# Of every timed step; an interval needs three.
BENCH_REPEATS ?= 3
# More settings of every timed step.
BENCH_MORE ?=
SMALL := experiment=bench_smoke runs_dir=runs/smoke overwrite=true
bench = $(RUN) -m experiments.$(1) $(if $(SMOKE),$(SMALL) $(3),-m model=$(2) runs_dir=runs/bench $(4))

.PHONY: help setup setup-cluster setup-torchao demo demo-models figures reproduce test test-full test-gpu bench-kernels bench-steps bench-videos bench-published claims lint format store-gc clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Build the environment .venv (about two minutes the first time)
	@echo "The environment $(VENV) is ready"

$(READY): pyproject.toml constraints.txt tools/setup_environment.py
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: found no Python 3.11, 3.12 or 3.13 that can make environments (Debian: apt install python3-venv); name one: make setup PYTHON=/path/to/python3.12" >&2; exit 2; fi
	@"$(PYTHON)" tools/setup_environment.py --venv $(VENV)
	@touch $@

setup-cluster: $(READY)  ## Add the launchers of Slurm and Ray to the environment
	@echo "Install the launchers of Slurm and Ray; that lpips lacks torchvision, as pip may say, is meant"
	@$(RUN) -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt -e ".[cluster]"
	@$(RUN) -c "import ray, submitit; print(f'submitit {submitit.__version__} and Ray {ray.__version__} are installed')"

setup-torchao: $(READY)  ## Add torchao, for linear layers in FP8, to the environment
	@$(RUN) -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt -e ".[fp8]"
	@$(RUN) -c "from importlib.metadata import version; print('torchao', version('torchao'), 'is installed')"

demo: $(READY)  ## Run sparse against dense on the embedded model and write runs/demo/report.html
	@$(RUN) -m experiments.compare -m experiment=demo runs_dir=runs/demo
	@$(RUN) -m analysis.report runs/demo

assets/tiny_%/model_index.json:
	@echo "error: assets/tiny_$* is not there; python -m experiments.train_tiny --family $* trains it, on a GPU" >&2; exit 2

demo-models: $(EMBEDDED) $(READY)  ## Run sparse against dense on all embedded models and write runs/demo_models/report.html
	@$(RUN) -m experiments.compare -m experiment=demo_models runs_dir=runs/demo_models
	@$(RUN) -m analysis.report runs/demo_models

# Plans, kernels and the tables of tiny models have none.
figures: $(READY)  ## Draw every figure that the committed rows allow into runs/figures
	@for folder in $(filter-out results/plans results/kernels results/published_tiny,$(wildcard results/*)); do $(RUN) -m analysis.figures $$folder --output runs/figures/$$(basename $$folder) || exit; done

reproduce: $(READY)  ## List published tables; make reproduce-TABLE sets one beside what is measured here (smoke=1 format=latex compiled=1)
	@$(RUN) -m analysis.reproduce

# Given to both commands, so that a wrong one is refused before anything runs.
in_format = $(if $(format),--format $(format))

# Filled from its own runs, and from those of a GPU: made here, or else committed.
reproduce-%: $(READY)
	@commands=$$($(RUN) -m analysis.reproduce $* --commands $(if $(smoke),--smoke) $(in_format)) && echo "$$commands" | sh -e
	@$(RUN) -m analysis.reproduce $* $(in_format) $(if $(allow_dirty),--allow-dirty) \
		$(if $(allow_mixed),--allow-mixed) $(if $(compiled),--compiled) $(if $(smoke),--smoke) \
		--runs $$(ls -d runs/reproduce$(if $(smoke),-smoke)/$* runs/reproduce/steps runs/bench runs/kernels 2>/dev/null) \
		--committed results/published

test: $(READY)  ## Run the quick tests
	@$(PYTEST) -n $(WORKERS) --dist worksteal -m "not slow and not timing and not gpu"

test-full: $(READY)  ## Run the slow tests: kills, browsers, whole runs; then, alone, those that measure time
	@$(PYTEST) -n $(WORKERS) --dist worksteal -m "slow and not timing and not gpu"
	@$(PYTEST) -m "timing and not gpu"

test-gpu: $(READY)  ## Run the tests that need an NVIDIA GPU; fails where there is none
	@$(RUN) -c "import sys, torch; torch.cuda.is_available() or sys.exit('error: torch finds no NVIDIA GPU here: no test was run')"
	@$(PYTEST) -m gpu

bench-kernels: $(READY)  ## Time our kernels on an NVIDIA GPU, each checked first, into runs/kernels
	@$(if $(SMOKE),TRITON_INTERPRET=1 )$(RUN) -m experiments.bench_kernels --overwrite $(if $(SMOKE),--size small --dtype float32 --repeats 2 --kernel reorder --runs-dir runs/smoke)

bench-steps: $(READY)  ## Time a step of every BENCH_MODELS at full size, random weights, beside what the GPU allows, into runs/bench
	@$(call bench,rates,$(BENCH_MODELS))
	@$(call bench,step_latency,$(BENCH_MODELS),seconds=0,backend=$(BENCH_BACKEND) compile=$(BENCH_COMPILE) operators=true seconds=0 repeats=$(BENCH_REPEATS) $(BENCH_MORE))

bench-videos: $(READY)  ## Time all denoising steps of every BENCH_VIDEOS likewise, beside the time composed of single steps
	@$(call bench,rates,$(BENCH_VIDEOS))
	@$(call bench,video_latency,$(BENCH_VIDEOS),seconds=0,backend=$(BENCH_BACKEND) compile=$(BENCH_COMPILE) seconds=0 repeats=$(BENCH_REPEATS) $(BENCH_MORE))

bench-published: $(READY)  ## Time what published tables need of an NVIDIA GPU, steps and kernels, into runs/reproduce/steps (compiled=1)
	@$(RUN) -c "import sys, torch; torch.cuda.is_available() or sys.exit('error: torch finds no NVIDIA GPU here: nothing was timed')"
	@commands=$$($(RUN) -m analysis.reproduce --commands --gpu --set backend=$(BENCH_BACKEND) seconds=0 repeats=$(BENCH_REPEATS) \
		$(if $(compiled),compile=true operators=true)) && \
		echo "$$commands" | { status=0; while IFS= read -r line; do sh -c "$$line" </dev/null || status=2; done; exit $$status; }

claims: $(READY)  ## Print what was to be reached beside what the committed rows say; fails for README numbers without a row
	@$(RUN) -m analysis.claims

lint: $(READY)  ## Check style and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: $(READY)  ## Bring the code into shape
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

store-gc: $(READY)  ## Show the stored dense twins of RUNS (runs); with DELETE=1 free those that no run uses
	@$(RUN) -m experiments.store_gc $(or $(RUNS),runs) $(if $(STORE),--store $(STORE)) $(if $(filter 1,$(DELETE)),--delete)

clean:  ## Remove the environment and what tools left; keeps runs/
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
