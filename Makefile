# A menu. Every target is a visible command or two; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:  # targets share an environment and the records; what can run side by side does so inside of one
.DEFAULT_GOAL := help
.PHONY: help env smoke book html test grid gpu-pack gpu-rehearsal bench kill-test check-book check-links pdf colab lint picture explorer notebooks address lock clean

PYTHON ?= python3
BIN := .venv/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
ENV := .venv/.requirements-installed
PEERS := .venv/.peers-installed
GRID := .venv/.grid-installed
BUDGET ?= smoke
SEEDS ?= 0
JOBS ?= 2
PROFILE ?= machine
KILLS ?= 20
SMOKE_ROWS := traditional adversarial advprop als sat als-sat-advprop

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

book: $(ENV)  ## Six small experiments on digits, then the book, from nothing (a fresh clone is enough)
	@$(MAKE) --no-print-directory smoke html

test: $(ENV) $(PEERS) $(GRID)  ## Everything that is checked: units, the peer libraries, small notebooks, the book
	OMP_NUM_THREADS=1 ADVLIB_REQUIRE_PEERS=1 $(PY) -m pytest -rs -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

env: $(ENV)  ## The environment in .venv, with the exact versions of requirements.lock

smoke: $(ENV)  ## The six small experiments that the book's first look shows (those that are there are kept)
	@echo "Running six rows on digits, two at a time (about a minute) ..."
	@printf '%s\n' $(SMOKE_ROWS) | OMP_NUM_THREADS=1 xargs -P 2 -I {} $(PY) -m study run {} --budget smoke --seed 0

grid: $(ENV) $(GRID)  ## Every run of a budget that is missing: make grid BUDGET=lite SEEDS="0 1" JOBS=2 KEYS="als sat"
	@$(PY) -m study status --budget $(BUDGET) --seeds $(SEEDS) $(if $(KEYS),--keys $(KEYS)) \
	    $(if $(DATASET),--dataset $(DATASET)) --needs $(JOBS) | grep -vE '^(done|running|failed|missing|stale|damaged) '
	@$(PY) -m snakemake -s workflow/Snakefile --profile workflow/profiles/$(PROFILE) $(if $(filter machine,$(PROFILE)),--cores $(JOBS)) \
	    $(if $(filter machine,$(PROFILE)),--resources mem_mb=$$($(PY) -c "import psutil; print(psutil.virtual_memory().available // 10**6)")) \
	    --config budget=$(BUDGET) seeds="$(SEEDS)" keys="$(KEYS)" dataset="$(DATASET)" -- collect

gpu-pack: $(ENV)  ## What a borrowed GPU machine needs, in one folder below 64 MiB: code, images, wheels (needs the registry)
	@$(PY) tools/gpu_pack.py

gpu-rehearsal: $(ENV) .venv-gpu/.installed  ## A borrowed machine on the CPU: pack, gate, campaign, a kill, what came back (five minutes)
	@$(PY) tools/gpu_rehearsal.py --python .venv-gpu/bin/python

bench: $(ENV) $(PEERS)  ## How fast it is, as ratios to peers measured in the same run (half an hour, on a quiet machine)
	@$(PY) -m benchmarks

kill-test: $(ENV) $(GRID)  ## Kill a grid at KILLS random moments, and compare its records with those of one left in peace
	@$(PY) tools/kill_test.py --kills $(KILLS) --jobs $(JOBS)

html: $(ENV)  ## The book alone, from the records that are there; a warning or a missing number is an error
	@$(PY) tools/build_book.py

check-book: $(ENV) $(PEERS)  ## The built book in a browser: links, axe-core, light and dark, phone width (needs Chromium)
	@$(PY) tools/check_book.py

check-links: $(ENV)  ## Every address outside the book that a page links to (needs the network)
	$(BIN)/jupyter-book build . --builder linkcheck -q

pdf: $(ENV) $(PEERS)  ## The built book as one PDF, _build/book.pdf (needs Chromium)
	@$(PY) tools/make_pdf.py

colab:  ## The notebooks as Colab starts them: newest packages, advlib beside them (own environment)
	@$(PYTHON) -m venv --clear .venv-colab
	@.venv-colab/bin/python -m pip install --quiet torch torchvision matplotlib seaborn pandas scikit-learn scipy \
	    statsmodels safetensors tqdm pillow jupyter nbclient
	@.venv-colab/bin/python -m pip install --quiet ".[study]"
	@.venv-colab/bin/python tools/run_as_colab.py

lint: $(ENV)  ## ruff
	$(BIN)/ruff check .

picture: $(ENV)  ## Draw the picture of the README from the records
	@$(PY) -c "from study.evidence.selection import largest; from study.findings.numbers.results import ALONE, tradeoff; \
	    from study.machine.folders import results_folder; tradeoff(largest(results_folder(), ALONE)[0]).savefig('book/static/results.png')"

explorer: $(ENV)  ## Make the data of the book's explorer page again, from the models and their records (a minute)
	@$(PY) -m study measure explorer --budget lite --dataset cifar10-jpeg

notebooks: $(ENV)  ## Run the five notebooks and keep their outputs, which the book shows (two minutes, more beside other work)
	@$(PY) tools/run_as_colab.py --keep

address:  ## Set the repository's address everywhere: make address REPO=owner/name
	@$(PYTHON) tools/address.py $(REPO)

lock: $(ENV)  ## Rewrite requirements.lock from requirements.txt, keeping what still fits (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/ (or: $(PY) -m pip install uv)"; exit 1; }
	@uv pip compile requirements.txt --universal --python-version 3.11 --no-annotate --no-emit-index-url --quiet \
	    --generate-hashes --custom-compile-command "make lock" --output-file requirements.lock

clean:  ## Remove the built book (records and .venv stay)
	rm -rf _build

# The environment is made once, and again when the lock or the package's own metadata change.
$(ENV): requirements.lock pyproject.toml
	@if ! $(PY) -c "" 2>/dev/null; then \
	    $(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || { \
	        echo "This project needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	        echo "Name one that is: make book PYTHON=python3.12"; exit 1; }; \
	    $(PYTHON) -m venv --clear .venv; \
	fi
	@echo "Installing requirements.lock into .venv (the first time two or three minutes, and about 6 GB on Linux)"
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-deps --editable .
	@touch $@

# Such a machine as gpu-rehearsal plays: Python 3.12 with torch, and without all that makes a notebook run.
.venv-gpu/.installed:
	@python3.12 -m venv --clear .venv-gpu || { echo "make gpu-rehearsal needs python3.12"; exit 1; }
	@echo "Installing torch 2.11 into .venv-gpu (some minutes, once)"
	@.venv-gpu/bin/python -m pip --disable-pip-version-check --quiet install torch==2.11.0 torchvision==0.26.0 pandas scipy \
	    statsmodels seaborn scikit-learn safetensors psutil tqdm attrs click pyyaml requests pygments
	@touch $@

$(GRID): requirements-grid.lock $(ENV)
	@$(PIP) install --no-deps --require-hashes --requirement requirements-grid.lock
	@touch $@

$(PEERS): requirements-peers.lock $(ENV)
	@$(PIP) install --no-deps --require-hashes --requirement requirements-peers.lock
	@touch $@
