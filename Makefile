# Everything that one does with this project. `make` alone lists it.

PROFILE ?= mini
PYTHON ?= python3

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check
READY := $(VENV)/requirements.lock
SITE := build/site-env
# The index of PyTorch's own builds that .venv was made with, or none; it stays so until another one is given.
TORCH_KEPT := $(shell cat $(VENV)/torch-index 2>/dev/null)
TORCH_INDEX ?= $(TORCH_KEPT)
# Those that the profile is of, where it says so; else all.
ONLY := $(shell sed -n 's/^only = \[\(.*\)\].*/\1/p' 'xaikit/companion/profiles/$(PROFILE).toml' 2>/dev/null | tr -d '",')
NOTEBOOKS := $(or $(ONLY),$(patsubst notebooks/%.py,%,$(wildcard notebooks/[0-9]*.py)))
STAMPS := $(NOTEBOOKS:%=build/$(PROFILE)/%.stamp)
RECORDS := $(NOTEBOOKS:%=figures/$(PROFILE)/%/numbers.json)
CODE := $(wildcard xaikit tests notebooks benchmarks docs/site)
METHODS := surgery texplain perturbation decomposition saliency metrics
# What a notebook's result may depend on; `xaikit run` decides by content which of it really matters.
SOURCES := $(wildcard xaikit/*.py* xaikit/*/*.py* xaikit/companion/profiles/$(PROFILE).toml data/weights/*/*) requirements.lock

# glibc hands large tensors back to the system one by one, and fetches new pages for the next ones: a third of the time of
# a small network's training on some machines. So it keeps up to half a gigabyte (companion/run.py does the same).
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
export MALLOC_TRIM_THRESHOLD_ ?= 536870912

# The profile is for the runs alone: tests always take mini.
unexport PROFILE

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help setup figures review $(NOTEBOOKS) models data notebooks smoke lab test test-fast test-lowest gpu pretend-gpu rehearse accept \
  check audit-deps chaos format bench lock site site-lock clean FORCE
.DEFAULT_GOAL := help

# The list is made of this file: the headings below, and the targets with what is said of them.
help: ## this list
	@awk -F ':.*## ' -v notebooks='$(NOTEBOOKS)' ' \
	  /^# == / { printf "\n%s\n", substr($$0, 6) } \
	  /^[a-z-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 } \
	  /^[$$].NOTEBOOKS.:.*## / { for (i = 1; i <= split(notebooks, name, " "); i++) printf "  make %-21s %s\n", name[i], $$2 }' \
	  $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "PROFILE=mini (default: a laptop, no download), full (notebook 05 in large: an hour or two) or paper (the papers' models"
	@echo "and data, a GPU)."
	@echo "PYTHON=python3.12, say, names the Python that .venv is made with, TORCH_INDEX=... an index with other builds of torch."

# == See results

# A notebook that fails stops no other one, and the report comes in any case.
figures: $(READY) ## every table and figure, then the report
	@$(MAKE) --keep-going --no-print-directory PROFILE='$(PROFILE)' $(NOTEBOOKS); status=$$?; \
	$(PY) -m xaikit report --profile '$(PROFILE)' && exit $$status

review: $(READY) ## one page: the papers' tables and figures beside the rerun, in build/review.html
	@$(PY) -m xaikit review --profile '$(PROFILE)'

# The site needs nothing of .venv: the notebooks are as they were executed, and the package is read, not imported.
site: $(SITE)/requirements.lock ## the web site in build/site, of the committed notebooks, pages and figures; nothing is run
	@$(SITE)/bin/python docs/site/pages.py build/site-source
	@$(SITE)/bin/python docs/site/article.py build/site-source/docs/article.pdf
	@$(SITE)/bin/python -m sphinx -q -E -W --keep-going -d build/site-trees -c docs/site build/site-source build/site
	@$(SITE)/bin/python docs/site/check.py build/site

notebooks: $(READY) ## write the executed notebooks/*.ipynb
	@$(PY) -m xaikit notebooks

# == Try a notebook

smoke: $(READY) ## each notebook's first figure at the smallest sizes, in build/smoke/: a minute
	@$(PY) -m xaikit smoke

lab: $(READY) ## JupyterLab with the paired notebooks
	@$(PY) -m xaikit lab

$(NOTEBOOKS): %: build/$(PROFILE)/%.stamp ## that notebook alone
	@$(if $(RAN),,echo "Nothing to be done: $@ is up to date.")

# == Check

test: $(READY) ## the tests; runs the mini notebooks first where they are not up to date
	@$(PY) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: $(READY) ## the quick tests of the methods: at most 90 seconds, for who changes one
	@$(PY) -m pytest -m 'not slow' --numprocesses 2 --dist loadfile $(METHODS:%=tests/%)

# By uv, as pip can only resolve the newest versions. What old libraries say of newer ones is no fault of this code.
test-lowest: ## the methods' tests with the lowest versions that pyproject.toml allows, in an environment of their own
	@$(PYTHON) -m venv --clear build/lowest
	@build/lowest/bin/python -m pip install -qq --disable-pip-version-check uv
	@build/lowest/bin/python -m uv pip install -q --python build/lowest --resolution lowest-direct --editable '.[test]'
	@build/lowest/bin/python -m pytest -W ignore::DeprecationWarning -W ignore::FutureWarning $(METHODS:%=tests/%)

gpu: $(READY) ## on a machine with a GPU: device tests and all notebooks there, with seconds and memory
	@$(PY) tests/device/on_gpu.py

pretend-gpu: $(READY) ## all notebooks in small on a pretended GPU, and what of the package they reach
	@$(PY) tests/device/everything.py

rehearse: $(READY) ## the paper profile on stand-ins for its data and weights, on a pretended GPU
	@$(PY) tests/device/rehearse.py

check: $(READY) ## lint, check the format and who imports whom
	@$(PY) -m ruff check $(CODE)
	@$(PY) -m ruff format --check $(CODE)
	@PYTHONPATH=. $(VENV)/bin/lint-imports --cache-dir build/import-linter

audit-deps: $(READY) ## licences of all that is installed, and what is declared and not used or used and not declared
	@$(PY) tests/supply/licences.py
	@$(PY) -m deptry .

chaos: $(READY) ## kills, a full disk, two at once, no HOME, ...: is anything lost, or said that is not so? 20 minutes
	@$(PY) tests/chaos/chaos.py

bench: $(READY) ## run every benchmark
	@set -e; for name in $(subst /,.,$(basename $(wildcard benchmarks/*/*.py))); do echo "== $$name"; $(PY) -m $$name; done

# == Change things

setup: $(READY) ## make .venv from requirements.lock (every other target does it when needed)

format: $(READY) ## mend what check finds, where that can be done by itself
	@$(PY) -m ruff check --fix-only --quiet $(CODE)
	@$(PY) -m ruff format $(CODE)

models: $(READY) ## train the mini foundation models in data/weights from nothing
	@$(PY) -m xaikit train-models

accept: $(READY) ## accept the present numbers, with bands from seeds and arithmetics (on purpose only)
	@$(PY) -m xaikit accept --profile '$(PROFILE)'

# By uv, which resolves for all systems and Pythons at once, each with its marks, and has the hashes of all files.
pinned = $(PYTHON) -m venv --clear build/lock \
  && build/lock/bin/python -m pip install -qq --disable-pip-version-check uv \
  && build/lock/bin/python -m uv pip compile -q --upgrade --universal --fork-strategy fewest --python-version 3.11 \
    --generate-hashes --no-annotate --no-header $(1) -o build/new.lock \
  && { sed -n '/^\#/p' $(2); cat build/new.lock; } > build/requirements.lock \
  && mv build/requirements.lock $(2) \
  && rm -rf build/lock build/new.lock

lock: ## pin the newest versions within pyproject.toml's bounds in requirements.lock
	@$(call pinned,--extra test --no-emit-package xaikit pyproject.toml,requirements.lock)

site-lock: ## pin the newest versions within docs/site/requirements.in's bounds, of what makes the site alone
	@$(call pinned,docs/site/requirements.in,docs/site/requirements.lock)

clean: ## remove build/ and the caches; .venv and figures/ stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# == The papers' own models and data

data: $(READY) ## with PROFILE=paper: fetch and check its data and weights (mini needs none)
	@$(PY) -m xaikit download --profile '$(PROFILE)'

# As with .venv, the copy of the lock is the last thing written.
$(SITE)/requirements.lock: docs/site/requirements.lock
	@echo "Making $(SITE) from $<: half a minute, once."
	@$(PYTHON) -m venv --clear $(SITE)
	@$(SITE)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@cp $< $@

# `xaikit run` reruns a notebook only where the content of what it depends on has changed, and refreshes the stamp.
$(STAMPS): build/$(PROFILE)/%.stamp: notebooks/%.py figures/$(PROFILE)/%/numbers.json $(SOURCES) | $(READY)
	$(eval RAN := yes)
	@$(PY) -m xaikit run $* --profile '$(PROFILE)'

# Made along with the stamp; named so that a record that was removed or edited is made again.
$(RECORDS): ;

# .venv is made again when the lock's content changes, when another Python or another index of torch is asked for by
# PYTHON=... or TORCH_INDEX=..., when its own Python was replaced, and when an installation was cut short: the copy of
# the lock is the last thing written.
version = $$($(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ASKED := $(if $(filter file,$(origin PYTHON)),$(PY),$(PYTHON))

# The lock's hashes are of the builds of the ordinary index. Torch's other builds have their own, so they and what they
# need beside the lock (a CPU's nothing, a GPU's its libraries) come from TORCH_INDEX in the locked versions, unhashed.
OF_TORCH := ^(torch|torchvision|triton)==|^(cuda|nvidia)-

$(READY): FORCE
	@made=$$(sed -n 's/^version = \([0-9]*[.][0-9]*\).*/\1/p' $(VENV)/pyvenv.cfg 2>/dev/null); \
	if cmp -s requirements.lock $@ && [ "$$made" = "$(call version,$(PY))" ] \
	  && [ "$$made" = "$(call version,$(ASKED))" ] && [ "$(TORCH_INDEX)" = "$(TORCH_KEPT)" ]; then \
	  if [ requirements.lock -nt $@ ]; then touch $@; fi; exit 0; \
	fi; \
	if ! $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then \
	  echo "$(PYTHON) is not a Python from 3.11 to 3.14: install one, or name it with make PYTHON=python3.12." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) from requirements.lock: a few minutes$(if $(TORCH_INDEX),, and about 6.5 GB), once."; \
	rm -f $@ \
	&& $(PYTHON) -m venv --clear $(VENV) \
	&& if [ -z "$(TORCH_INDEX)" ]; then $(PIP) --no-deps --require-hashes --requirement requirements.lock; else \
	  echo "$(TORCH_INDEX)" > $(VENV)/torch-index \
	  && awk '/^[^ #]/ { ours = !/$(OF_TORCH)/ } ours' requirements.lock > $(VENV)/without-torch.lock \
	  && $(PIP) --no-deps --require-hashes --requirement $(VENV)/without-torch.lock \
	  && $(PIP) --index-url "$(TORCH_INDEX)" $$(sed -n -E 's/^(torch(vision)?==[^ ;]*).*/\1/p' requirements.lock); \
	fi \
	&& $(PIP) --no-deps --no-build-isolation --editable . \
	&& cp requirements.lock $@
