# Everything on a machine that has Python 3.11 or newer and reaches PyPI: `make run`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOCKED ?= yes
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Recorded layers, schedules and initial values: the tests compare these, not a replay.
OTHER_RECORDS := $(patsubst %,tests/golden/%.npz,init_facts schedule torch_layers)

.PHONY: run test parity lint lock audit clean

run: $(VENV)/.installed  ## install, then L-DRL and backprop on scikit-learn's digits, three seeds each
	$(BIN)/python -m dtp_jax.compare --configs=digits_dtp,digits_backprop --seeds=3 --workdir=runs/quick_start

test: $(VENV)/.installed-dev  ## install, then all tests
	$(BIN)/python -m pytest

parity: $(VENV)/.installed  ## replay the recorded numbers of the original program
	$(BIN)/python -m dtp_jax.parity $(filter-out $(OTHER_RECORDS), $(wildcard tests/golden/*.npz))

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# One set of versions that passed all tests, each file known by its hash. `make run LOCKED=` installs the newest.
ifeq ($(LOCKED),yes)
INSTALL = $(PIP) --require-hashes --no-deps --no-build-isolation -r
$(VENV)/.installed: pyproject.toml requirements/build.lock requirements/run.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements/build.lock
	$(INSTALL) requirements/run.lock
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

# A CPU build of torch needs nothing of cuda.lock.
$(VENV)/.installed-dev: $(VENV)/.installed requirements/dev.lock requirements/cuda.lock
	$(INSTALL) requirements/dev.lock
	$(BIN)/python -m pip show torch | grep -q '^Version: .*+cpu' || $(INSTALL) requirements/cuda.lock
	touch $@
else
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	touch $@
endif

# `make lock` keeps the versions that it can; `make lock LOCK_FLAGS=--upgrade` takes the newest.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version=3.11 --generate-hashes --no-annotate \
	--custom-compile-command='make lock' $(LOCK_FLAGS)
BUILD := setuptools>=77
# The CPU build of torch that CI has: torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl.
TORCH_CPU := 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b

lock:  ## write requirements/*.lock anew: what pyproject.toml asks for, for every platform and Python
	$(PYTHON) -m venv $(VENV)
	$(PIP) uv==0.13.9
	echo '$(BUILD)' | $(COMPILE) -o requirements/build.lock -
	echo '$(BUILD)' | $(COMPILE) -o requirements/run.lock pyproject.toml -
	cat requirements/cuda.lock >> requirements/dev.lock
	echo '$(BUILD)' | $(COMPILE) -o requirements/dev.lock --extra=dev -c requirements/run.lock pyproject.toml -
	grep -q $(TORCH_CPU) requirements/dev.lock || sed -i 's/^torch==2.13.0 .*/&\n    --hash=sha256:$(TORCH_CPU) \\/' requirements/dev.lock
	awk '/^[a-z]/ {out = /^(cuda-|nvidia-|triton=)/ ? "cuda" : "dev"} {print > "requirements/" (out ? out : "dev") ".new"}' \
		requirements/dev.lock
	for name in cuda dev; do mv requirements/$$name.new requirements/$$name.lock; done

audit: $(VENV)/.audit  ## known vulnerabilities of what is locked; asks PyPI
	for name in run dev cuda; do \
		$(VENV)/.audit/bin/pip-audit --require-hashes --disable-pip -r requirements/$$name.lock || exit; done

$(VENV)/.audit:
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1

clean:
	rm -rf $(VENV) build *.egg-info
