# make demo, make test: each sets everything up in .venv from the package registry, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# torch's threads sleep while they wait: beside DALI's they would otherwise take turns spinning on the same cores.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test check format docs bench clean

demo: $(READY)
	$(BIN)/python -m fastaug demo

# A file at a time in each of at most four processes; they wait for each other's files, imports and children anyway.
test: check
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site, in site/: warnings are errors. (The variable switches off an advertisement for another program.)
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# A few minutes on two cores, with a small set of photos; benchmarks/README.md has the commands for longer runs.
bench: $(READY)
	$(BIN)/python -m benchmarks.run_all

clean:
	rm -rf $(VENV) demo-out site

$(READY): setup.py
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON), 3.11 or newer. On Debian: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "missing: Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Use make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "missing: the venv module of $(PYTHON). On Debian: apt-get install python3-venv"; exit 1; }
	@echo "Setting up $(VENV): about 6 GB, mostly torch; a few minutes, once."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps fastai==2.8.12  # it requires spaCy, which its vision part does not use
	touch $(READY)
