# Needs python3 (3.11 or newer) with venv, git and make; everything else is installed into .venv.
#   make demo [ARGS=--script]   everything on this machine, simulated on the wire
#   make test [ARGS="types"]    all stages, or those named; see tests/run.py
#   make lint | bench | proof   style and types | measurements | the long forms of the tests
#   make lock                   rewrite requirements/*.txt from pyproject.toml

PYTHON ?= python3
ARGS   ?=
PY     := .venv/bin/python
STAMP  := .venv/.installed

.PHONY: demo test lint bench proof lock venv

demo: $(STAMP)
	.venv/bin/kiosk demo $(ARGS)

test: $(STAMP)
	$(PY) -m tests.run $(ARGS)

lint: $(STAMP)
	$(PY) -m tests.run lint types

bench: $(STAMP)
	$(PY) -m benchmarks $(ARGS)

proof: $(STAMP)
	$(PY) -m pytest --proof --timeout=14400 $(ARGS)

venv: $(STAMP)

$(STAMP): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with PYTHON=...")'
	@$(PYTHON) -c 'import ensurepip' || { echo "Install python3-venv first."; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

UV_COMPILE := .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	--custom-compile-command "make lock" pyproject.toml

# Not by way of the stamp: its prerequisites are what this writes. UPGRADE=--upgrade takes newer versions.
lock:
	@test -x .venv/bin/uv || { echo "Run 'make venv' first."; exit 1; }
	$(UV_COMPILE) $(UPGRADE) --extra dev -o requirements/dev.txt
	$(UV_COMPILE) --extra agent --constraint requirements/dev.txt -o requirements/agent.txt
	$(UV_COMPILE) --extra central --constraint requirements/dev.txt -o requirements/central.txt
	@! grep -nE 'https?://' requirements/*.txt || { echo "A download address got into the lock."; exit 1; }
