# make setup   the environment in .venv, with the versions of requirements.lock
# make demo    JPEG files to a robustness report, on handwritten digits
# make test    the tests
# make lock    write requirements.lock again from pyproject.toml

PYTHON ?= $(firstword $(foreach v,3.12 3.11,$(shell python$(v) -c 'import venv, ensurepip' 2>/dev/null && echo python$(v))) python3)
UV_VERSION := 0.13.9
RUN := .venv/bin/

.PHONY: setup demo test lint lock

setup: .venv/.complete

.venv/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' \
	  || { echo "lightning_sq needs Python 3.11 or 3.12. Write: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(RUN)python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(RUN)uv pip install --python $(RUN)python --compile-bytecode --require-hashes -r requirements.lock
	$(RUN)uv pip install --python $(RUN)python --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(RUN)lightning-sq demo $(DEMO)

test: setup
	OMP_NUM_THREADS=1 $(RUN)python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: setup
	$(RUN)ruff check .
	$(RUN)ruff format --check .

lock:
	$(RUN)uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --group dev --extra attacks pyproject.toml -o requirements.lock
