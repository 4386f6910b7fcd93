# Everything on a machine that has Python 3.11 or newer and reaches PyPI: `make run`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= -c constraints.txt

# Recorded layers, schedules and initial values: the tests compare these, not a replay.
OTHER_RECORDS := $(patsubst %,tests/golden/%.npz,init_facts schedule torch_layers)

.PHONY: run test parity lint clean

run: $(VENV)/.installed  ## install, then L-DRL and backprop on scikit-learn's digits, three seeds each
	$(BIN)/python -m dtp_jax.compare --configs=digits_dtp,digits_backprop --seeds=3 --workdir=runs/quick_start

test: $(VENV)/.installed-dev  ## install, then all tests
	$(BIN)/python -m pytest

parity: $(VENV)/.installed  ## replay the recorded numbers of the original program
	$(BIN)/python -m dtp_jax.parity $(filter-out $(OTHER_RECORDS), $(wildcard tests/golden/*.npz))

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
