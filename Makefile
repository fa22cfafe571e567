# GNU make and a POSIX shell. All paths are relative, so the folder's own path may have spaces.
#
#   make env PYTHON=python3.12                                    another Python
#   make env TORCH_INDEX=https://download.pytorch.org/whl/cpu     PyTorch's own CPU builds

PYTHON ?= python3
TORCH_INDEX ?=

BIN := .venv/bin
READY := .venv/ready
KERNELS := .venv/kernels
CODE := $(wildcard src tests tools bench)

# pip, not a faster installer: a CPU build of torch in a local folder of wheels (find-links) is
# found by pip only. A lost connection is tried twice more, not for minutes.
PIP := $(BIN)/python -m pip install -q --retries 2 --timeout 20 -c constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow test-lowest lint types notebook clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PYTHON=python3.12   the Python to build on (3.11 or newer)"
	@echo "TORCH_INDEX=URL     where torch comes from; without an NVIDIA GPU take"
	@echo "                    https://download.pytorch.org/whl/cpu: 0.5 GB to download instead of 3.0"

env: $(READY)  ## install everything into .venv; a second call does nothing
	@echo "Ready: $$($(BIN)/python --version) in .venv"

# The sizes: sums of the wheels that pip 23.2 fetched with --no-cache-dir, x86-64 Linux, 2026-11-24.
# torch comes alone and, from an index of its own, without its dependencies: such an index has not
# the versions of them that constraints.txt names. The last step brings them.
$(READY): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" > /dev/null || { \
	    echo "No Python called $(PYTHON) here; name one that is 3.11 or newer: make $(or $(MAKECMDGOALS),env) PYTHON=python3.12" >&2; exit 1; }
	@found=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' 2> /dev/null) || { \
	    echo "sentilora needs Python 3.11 or newer, and $(PYTHON) is $${found:-no Python that runs}; name another: make $(or $(MAKECMDGOALS),env) PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2> /dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments (no venv or ensurepip); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@start=$$(date +%s); \
	echo "1/3 virtual environment in .venv"; \
	$(BIN)/python -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv || exit 1; \
	$(PIP) --retries 0 --timeout 10 --dry-run --ignore-installed --no-deps --no-cache-dir tomli_w > /dev/null 2>&1 || { \
	    echo "No network, or no package index: pip does not get even tomli_w (20 kB); its reasons: $(BIN)/python -m pip download --no-deps tomli_w" >&2; exit 1; }; \
	if [ -n '$(TORCH_INDEX)' ]; then \
	    echo '2/3 torch from $(TORCH_INDEX): about 190 MB if it is a CPU build'; \
	elif [ "$$(uname -s)" = Linux ]; then \
	    echo "2/3 torch: 2.7 GB, as PyPI's build for Linux is for CUDA; without an NVIDIA GPU 190 MB are enough:"; \
	    echo "    make env TORCH_INDEX=https://download.pytorch.org/whl/cpu"; \
	else \
	    echo "2/3 torch"; \
	fi; \
	{ $(PIP) $(if $(TORCH_INDEX),--no-deps --index-url '$(TORCH_INDEX)') torch && \
	  echo "3/3 sentilora and everything else: 300 MB, a minute or two" && \
	  $(PIP) -e '.[test,lint]'; } || { \
	    echo "pip did not finish; its reason is above, and what was downloaded is kept: try make env again" >&2; exit 1; }; \
	touch $(READY); \
	echo "Installed in $$(($$(date +%s) - start)) s; .venv takes $$(du -sk .venv | awk '{ printf "%.1f", $$1 / 1e6 }') GB"

demo: $(READY)  ## check, train, evaluate and predict on what ships with sentilora; no download
	$(BIN)/sentilora demo

# A worker holds a core and 1.5 GB. --dist loadfile: what the tests of a file share is made once.
PYTEST := $(BIN)/python -m pytest -q -n logical --maxprocesses 4

test: $(READY)  ## run the tests but the slow ones; they reach no network
	$(PYTEST) -m "not slow" --dist loadfile

test-slow: $(KERNELS)  ## run the slow tests: pages, notebook, demo, two processes, kernels
	$(PYTEST) -m slow --dist worksteal

# The kernels run in Triton's interpreter here and are compiled for GPUs that are not here. 286 MB,
# unless a CUDA build of torch has brought it.
$(KERNELS): $(READY)
	@echo "triton: 286 MB, if it is not here yet"; $(PIP) -e '.[kernels]' && touch $(KERNELS)

# In an environment of its own, deleted afterwards. What older versions warn of is no error.
LOWEST := tests/cli tests/data tests/folders tests/models tests/scoring tests/training tests/test_config.py

test-lowest: $(READY)  ## run much of the tests on the lowest versions that pyproject.toml allows
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && trap 'exit 130' INT TERM && \
	$(BIN)/python tools/lowest_versions.py > "$$folder/lowest.txt" && \
	"$(PYTHON)" -m venv "$$folder/env" && \
	install() { "$$folder/env/bin/python" -m pip install -q -c "$$folder/lowest.txt" "$$@"; } && \
	install $(if $(TORCH_INDEX),--no-deps --index-url '$(TORCH_INDEX)') torch && \
	install -e '.[serve]' pytest pytest-xdist hypothesis openpyxl && \
	"$$folder/env/bin/python" -m pytest -q -n logical --maxprocesses 4 --dist loadfile \
	    -m "not slow" -W default $(LOWEST)

lint: $(READY)  ## check style, format and that the reference pages are fresh
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/python tools/reference.py --check

types: $(READY)  ## check the types
	$(BIN)/mypy src/sentilora

# A copy, so that neither outputs nor trained files end up in the working tree.
notebook: $(READY)  ## execute the notebook from top to bottom, in a temporary folder
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && trap 'exit 130' INT TERM && \
	cp -R FineTuningWithLorA.ipynb examples "$$folder" && \
	$(BIN)/jupyter-execute "$$folder/FineTuningWithLorA.ipynb"

clean:  ## remove the environment, caches and builds; what you trained stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
