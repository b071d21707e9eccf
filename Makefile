# `make demo` and `make test` do all the set-up themselves: a virtual environment in .venv, made once.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
INSTALL = -m pip install --quiet --constraint constraints.txt
export MPLBACKEND ?= Agg

.PHONY: demo test test-all arviz1 slow lint types docs verify bench bench-sequences bench-hierarchies bench-labels bench-kvae bench-walk bench-pixelcnn \
  runs bench-peers bench-kalman bench-kalman-peers bench-hmm table
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed        ## train, evaluate and check a VAE on real digits; writes runs/demo/report.html
	$(RUN) examples/vae.py

test test-all docs arviz1: export OMP_NUM_THREADS ?= 1  # a process for each core: more threads wait for each other

# neighbours share fixtures and imports, so each process takes a stretch of the list and steals at the end
SHARED = -n auto --dist worksteal

test: $(VENV)/.installed        ## the tests that are quick: at most three minutes on two cores
	$(RUN) -m pytest -q $(SHARED)

test-all: $(VENV)/.installed    ## those and the thorough ones: at most twenty minutes on two cores, as CI runs them
	$(RUN) -m pytest -q $(SHARED) -m 'not slow' --durations=10

arviz1: $(VENV)-arviz/.installed    ## the module that knows arviz, and what takes its containers, under arviz 1.x
	PYTHONPATH=$(VENV)-arviz $(RUN) -m pytest -q -m 'not slow' tests/infer/reference/test_inference_data.py \
	  tests/infer/reference/test_fingerprint.py tests/infer/reference/test_compare.py tests/infer/evaluation/test_draws.py \
	  tests/plots/test_latents.py tests/plots/test_checks.py

slow: $(VENV)/.installed        ## NUTS references and training to a target
	$(RUN) -m pytest -q -m slow

verify: $(VENV)/.installed      ## the pairs that ship, scored again on their fixed rows: at most three minutes on a core
	OMP_NUM_THREADS=1 $(RUN) -m zoo --all

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .

types: $(VENV)/.installed-dev
	$(VENV)/bin/mypy

docs: $(VENV)/.installed-docs   ## the site, build/docs/index.html; warnings are errors
	rm -rf build/docs docs/gallery docs/reference/generated
	$(RUN) -m sphinx -q -W --keep-going -d build/doctrees docs build/docs

bench: $(VENV)/.installed       ## speed beside hand-written PyTorch; writes results/speed_vae_step.json
	$(RUN) -m benchmarks.vae_step

bench-sequences: $(VENV)/.installed     ## a step of DMM and SRNN, also over T; writes results/speed_sequence_*.json
	$(RUN) -m benchmarks.sequence_step
	$(RUN) -m benchmarks.sequence_step --sizes --lengths --out results/speed_sequence_lengths.json

bench-hierarchies: $(VENV)/.installed   ## a step of a ladder, LVAE+ and BIVA; writes results/speed_hierarchy_step.json
	$(RUN) -m benchmarks.hierarchy_step

bench-labels: $(VENV)/.installed        ## a step of M2 with few labels; writes results/speed_label_step.json
	$(RUN) -m benchmarks.label_step

bench-kvae: $(VENV)/.installed          ## a step of a Kalman VAE; writes results/speed_kvae_step.json
	$(RUN) -m benchmarks.kvae_step

bench-walk: $(VENV)/.installed          ## a step of a model of walks; writes results/speed_walk_step.json
	$(RUN) -m benchmarks.walk_step

bench-pixelcnn: $(VENV)/.installed      ## a step and a draw of PixelCNN; writes results/speed_pixelcnn.json
	$(RUN) -m benchmarks.pixelcnn

bench-peers: $(VENV)-peers/.installed   ## makes `make bench` time pythae too

bench-kalman: $(VENV)/.installed $(VENV)-kalman-peers/.installed    ## exact recursions and their peers; hours, resumed
	$(RUN) -m benchmarks.kalman

bench-kalman-peers: $(VENV)-kalman-peers/.installed     ## JAX and the other peers of benchmarks/kalman

bench-hmm: $(VENV)/.installed   ## hidden Markov models and their peers; writes results/speed_hidden_markov.json
	$(RUN) -m benchmarks.hidden_markov

runs: $(VENV)/.installed        ## the rows of results that are not there yet; hours, resumed
	$(RUN) tools/runs.py --run --jobs 2

table: $(VENV)/.installed       ## the tables of the pages, from tests/pairs.py and results/*.json
	$(RUN) tools/table.py

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments. Debian, Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(RUN) $(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(RUN) $(INSTALL) --editable '.[docs]'
	@touch $@

# beside the environment's own 0.2x: alone, so that nothing else changes with it; it says Python 3.12 and runs on 3.11
$(VENV)-arviz/.installed: $(VENV)/.installed
	$(RUN) -m pip install --quiet --no-deps --ignore-requires-python --target $(VENV)-arviz 'arviz==1.3.0' \
	  'arviz-base==1.3.1' 'arviz-stats==1.3.3' 'arviz-plots==1.3.2' 'lazy-loader==0.6'
	@touch $@

$(VENV)-peers/.installed:
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python $(INSTALL) pythae
	@touch $@

# versions that work together; torch no newer than ours, or it brings gigabytes of CUDA along
$(VENV)-kalman-peers/.installed:
	$(PYTHON) -m venv $(VENV)-kalman-peers
	$(VENV)-kalman-peers/bin/python -m pip install --quiet 'dynamax==1.0.3' 'jax==0.10.2' 'jaxlib==0.10.2' \
	  'tfp-nightly==0.26.0.dev20261027' 'statsmodels==0.15.0' 'pykalman==0.11.2' 'filterpy==2.0.0' \
	  'simdkalman==1.0.4' 'smcx==2.1.0' 'torch-kf==0.4.3' 'torch>=2.10,<2.14'
	@touch $@
