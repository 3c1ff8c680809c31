# Everything that one does with this project. `make` alone lists it.

PROFILE ?= mini
PYTHON ?= python3

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/requirements.lock
NOTEBOOKS := $(patsubst notebooks/%.py,%,$(wildcard notebooks/[0-9]*.py))
STAMPS := $(NOTEBOOKS:%=build/$(PROFILE)/%.stamp)
RECORDS := $(NOTEBOOKS:%=figures/$(PROFILE)/%/numbers.json)
CODE := $(wildcard xaikit tests notebooks benchmarks)
# What a notebook's result may depend on; xaikit.companion.run decides by content which of it really matters.
SOURCES := $(wildcard xaikit/*.py xaikit/*/*.py xaikit/companion/profiles/$(PROFILE).toml data/weights/*/*) requirements.lock

# The profile is for the runs alone: tests always take mini.
unexport PROFILE

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help setup figures $(NOTEBOOKS) models data notebooks lab test gpu pretend-gpu accept check format bench lock clean FORCE
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-20s %s\n", $$1, $$2 }'
	@for name in $(NOTEBOOKS); do printf '  make %-20s %s\n' $$name 'that notebook alone'; done
	@echo "PROFILE=mini (default: a laptop, no download) or PROFILE=paper (the papers' models and data, a GPU)."
	@echo "PYTHON=python3.12, say, names the Python that .venv is made with."

setup: $(READY) ## make .venv from requirements.lock (every other target does it when needed)

figures: $(STAMPS) $(READY) ## every table and figure, then the report
	@$(if $(RAN),,echo "Nothing to be done: every notebook is up to date.")
	@$(PY) -m xaikit.companion.run --report --profile '$(PROFILE)'

$(NOTEBOOKS): %: build/$(PROFILE)/%.stamp
	@$(if $(RAN),,echo "Nothing to be done: $@ is up to date.")

models: $(READY) ## train the mini foundation models in data/weights from nothing
	@$(PY) -m xaikit.models.train

data: $(READY) ## fetch and check the profile's data and weights
	@$(PY) -m xaikit.companion.download --profile '$(PROFILE)'

notebooks: $(READY) ## write the executed notebooks/*.ipynb
	@$(PY) -m xaikit.companion.run --notebooks

lab: $(READY) ## JupyterLab with the paired notebooks
	@env $$($(PY) -m xaikit.storage.arithmetic) $(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks

test: $(READY) ## the tests; runs the mini notebooks first where they are not up to date
	@$(PY) -m pytest

gpu: $(READY) ## on a machine with a GPU: device tests and all notebooks there, with seconds and memory
	@$(PY) tests/device/on_gpu.py

pretend-gpu: $(READY) ## all notebooks in small on a pretended GPU, and what of the package they reach
	@$(PY) tests/device/everything.py

accept: $(READY) ## accept the present numbers, with bands from seeds and arithmetics (on purpose only)
	@$(PY) -m xaikit.companion.accept --profile '$(PROFILE)'

check: $(READY) ## lint and check the format
	@$(PY) -m ruff check $(CODE)
	@$(PY) -m ruff format --check $(CODE)

format: $(READY) ## mend what check finds, where that can be done by itself
	@$(PY) -m ruff check --fix-only --quiet $(CODE)
	@$(PY) -m ruff format $(CODE)

bench: $(READY) ## run every benchmark
	@set -e; for name in $(subst /,.,$(basename $(wildcard benchmarks/*/*.py))); do echo "== $$name"; $(PY) -m $$name; done

# Resolves the bounds of pyproject.toml anew. The marks are for Macs: CUDA's packages exist for Linux only.
lock: ## pin the newest versions within pyproject.toml's bounds in requirements.lock
	@echo "Resolving in a fresh environment under build/lock: a few minutes."
	@$(PYTHON) -m venv --clear build/lock
	@build/lock/bin/python -m pip install -qq --editable '.[test]'
	@{ sed -n '/^#/p' requirements.lock; \
	   build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	     | sed -E '/^(cuda|nvidia|triton)[-=]/s/$$/ ; sys_platform == "linux" and platform_machine == "x86_64"/'; \
	} > build/requirements.lock
	@mv build/requirements.lock requirements.lock
	@rm -rf build/lock

clean: ## remove build/ and the caches; .venv and figures/ stay
	rm -rf build .pytest_cache .ruff_cache *.egg-info
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# xaikit.companion.run reruns a notebook only where the content of what it depends on has changed, and refreshes the stamp.
$(STAMPS): build/$(PROFILE)/%.stamp: notebooks/%.py figures/$(PROFILE)/%/numbers.json $(SOURCES) | $(READY)
	$(eval RAN := yes)
	@$(PY) -m xaikit.companion.run $* --profile '$(PROFILE)'

# Made along with the stamp; named so that a record that was removed or edited is made again.
$(RECORDS): ;

# .venv is made again when the lock's content changes, when another Python is asked for by PYTHON=..., when its own
# Python was replaced, and when an installation was cut short: the copy of the lock is the last thing written.
version = $$($(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ASKED := $(if $(filter file,$(origin PYTHON)),$(PY),$(PYTHON))

$(READY): FORCE
	@made=$$(sed -n 's/^version = \([0-9]*[.][0-9]*\).*/\1/p' $(VENV)/pyvenv.cfg 2>/dev/null); \
	if cmp -s requirements.lock $@ && [ "$$made" = "$(call version,$(PY))" ] \
	  && [ "$$made" = "$(call version,$(ASKED))" ]; then \
	  if [ requirements.lock -nt $@ ]; then touch $@; fi; exit 0; \
	fi; \
	if ! $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then \
	  echo "$(PYTHON) is not a Python from 3.11 to 3.14: install one, or name it with make PYTHON=python3.12." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) from requirements.lock: a few minutes and about 6 GB, once."; \
	rm -f $@ \
	&& $(PYTHON) -m venv --clear $(VENV) \
	&& $(PY) -m pip install -qq --disable-pip-version-check --requirement requirements.lock \
	&& $(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable . \
	&& cp requirements.lock $@
