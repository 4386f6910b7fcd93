# Everything on a machine that has Python 3.11 or newer and reaches PyPI: `make run`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOCKED ?= yes
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Recorded layers, schedules and initial values: the tests compare these, not a replay.
OTHER_RECORDS := $(patsubst %,tests/golden/%.npz,init_facts schedule torch_layers)

.PHONY: run test slow parity results lint docs docs-serve reliability fuzz mutants compiled lock audit clean

run: $(VENV)/.installed  ## install, then L-DRL and backprop on scikit-learn's digits, three seeds each
	$(BIN)/python -m dtp_jax.compare --configs=digits_dtp,digits_backprop --seeds=3 --workdir=runs/quick_start

test: $(VENV)/.installed-dev  ## install, then the tests; `make slow` has the rest
	$(BIN)/python -m pytest

slow: $(VENV)/.installed-dev  ## the tests that `make test` leaves out: many processes, and more cases of what it has
	$(BIN)/python -m pytest -m slow

parity: $(VENV)/.installed  ## replay the recorded numbers of the original program
	$(BIN)/python -m dtp_jax.parity $(filter-out $(OTHER_RECORDS), $(wildcard tests/golden/*.npz))

results: $(VENV)/.installed  ## run what docs/results.md lacks, hours of it; goes on where it was stopped
	$(BIN)/python -m benchmarks.paper $(RESULTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.installed-dev  ## the documentation site, into site/, and a search for dead links
	$(BIN)/python -m website

docs-serve: docs  ## the same, at http://localhost:8000
	$(BIN)/python -m http.server --directory site 8000

reliability: $(VENV)/.installed-dev  ## faults in real runs, kills, double starts; writes docs/reliability.md
	$(BIN)/python -m tests.reliability

fuzz: $(VENV)/.installed-dev  ## the fuzz tests, a dozen times longer; SEED=N repeats one
	$(BIN)/python -m tests.reliability.fuzz $(if $(SEED),--seed=$(SEED))

mutants: $(VENV)/.installed-dev  ## small defects, one at a time: do the tests find them? writes docs/mutants.md
	$(BIN)/python -m tests.mutants $(if $(ONLY),--only=$(ONLY))

compiled: .venv-compiled/.installed  ## compile a step for a TPU that is not at hand, in an environment of its own
	.venv-compiled/bin/python -m pytest tests/test_compiled.py

.venv-compiled/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-compiled
	.venv-compiled/bin/python -m pip install --quiet --disable-pip-version-check -e '.[compiled]'
	touch $@

# One set of versions that passed all tests, each file known by its hash. `make run LOCKED=` installs the newest.
ifeq ($(LOCKED),yes)
INSTALL = $(PIP) --require-hashes --no-deps --no-build-isolation -r
$(VENV)/.installed: pyproject.toml requirements/build.lock requirements/run.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements/build.lock
	$(INSTALL) requirements/run.lock
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

# Where pip finds no CPU build of torch (it is not on PyPI), torch has its CUDA libraries with it.
$(VENV)/.installed-dev: $(VENV)/.installed $(addprefix requirements/,dev.lock torch_cpu.lock torch_cuda.lock)
	$(INSTALL) requirements/torch_cpu.lock || $(INSTALL) requirements/torch_cuda.lock
	$(INSTALL) requirements/dev.lock
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
lock:  ## write requirements/*.lock anew: what pyproject.toml asks for, for every platform and Python
	$(PYTHON) -m venv $(VENV)
	$(PIP) uv==0.13.9
	echo '$(BUILD)' | $(COMPILE) -o requirements/build.lock -
	echo '$(BUILD)' | $(COMPILE) -o requirements/run.lock pyproject.toml -
	cat requirements/torch_cuda.lock >> requirements/dev.lock
	echo '$(BUILD)' | $(COMPILE) -o requirements/dev.lock --extra=dev -c requirements/run.lock pyproject.toml -
	awk '/^[a-z]/ {cuda = /^(cuda-|nvidia-|triton=)/} {print > "requirements/" (cuda ? "torch_cuda" : "dev") ".new"}' \
		requirements/dev.lock
	for name in torch_cuda dev; do mv requirements/$$name.new requirements/$$name.lock; done

audit: $(VENV)/.audit  ## known vulnerabilities of what is locked; asks PyPI
	for name in build dev torch_cuda; do \
		$(VENV)/.audit/bin/pip-audit --strict --require-hashes --disable-pip -r requirements/$$name.lock || exit; done

$(VENV)/.audit:
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1

clean:
	rm -rf $(VENV) build site .cache *.egg-info
