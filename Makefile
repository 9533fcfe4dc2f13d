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

test: check
	$(BIN)/python -m pytest

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

# A few minutes on two cores, with a small set of photos; benchmarks/README.md has the commands for longer runs. A GPU has
# its own call, benchmarks/gpu.sh. What is missed or missing does not stop the rest.
bench: $(READY)
	-$(BIN)/python -m benchmarks.fidelity --draws 2 --magnitude-photos 1 --sheet benchmarks/results/fidelity.png
	-$(BIN)/python -m benchmarks.filter_study --draws 1
	-$(BIN)/python -m benchmarks.warp_cpu --batch 64 1 --repeats 5 --seconds 0.1
	-$(BIN)/python -m benchmarks.growth --repeats 3
	-$(BIN)/python -m benchmarks.decode_to_batch --images 128 --repeats 3 --fastai-workers 0
	-$(BIN)/python -m benchmarks.loader_overhead --images 256 --repeats 3
	-$(BIN)/python -m benchmarks.ideal_loader --images 128 --repeats 3
	-$(BIN)/python -m benchmarks.scale --images 128 --listed 1000 1000000 --batches 1 64 --rounds 1 --passes 2
	-$(BIN)/python -m pytest benchmarks/test_functions.py --benchmark-enable --benchmark-columns median,iqr,rounds -k "not peers" -q
	$(BIN)/python -m benchmarks.readme

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
