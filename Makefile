# make demo   installs, trains on the demo data, evaluates
# make check  lint, types and the fast tests (at every save)
# make test   the whole suite, except the long tests
# make test-long  drills, benchmarks, the site and its notebook, a browser, packages, the tests' own servers
# make test-io  tests that need tensorflow-io: s3:// and az://, with the TensorFlow that it fits
# make test-beam  tests that need Apache Beam: preparing and predicting on its engines
# make test-image  the image's steps, without docker
# make docs   the documentation as a site, into site/
# make lock     writes requirements/*.txt again, from setup.py and requirements/*.in
# make test-preflight  tests that compile for TPUs: the training step, and whether it fits
# make browser  Chromium, in which tests open TensorBoard; where it can be installed
# make screenshots  the pictures of the README and the pages, anew: trains the demo twice
# make clean  removes the environments and what was built

PYTHON ?= python3.11
VENV := .venv
TF ?=

BIN = $(VENV)/bin
# Where it is set, every process of a test compiles all of our modules, and pytest all of its own.
unexport PYTHONDONTWRITEBYTECODE
# Another TensorFlow (make check TF=2.17.1) has an environment of its own.
ifneq ($(TF),)
VENV := .venv-tf$(TF)
PIN := tensorflow==$(TF) tensorboard==$(basename $(TF)).*
endif

# Three processes for two cores, as tests wait for the processes that they start. Each begins with a
# third of the tests, and takes from the others once it has none left.
PYTEST = $(BIN)/python -m pytest -q -n 3 --dist worksteal

.PHONY: demo check test test-long test-io test-beam test-image test-preflight browser screenshots docs lint lock clean

demo: $(VENV)/installed
	$(BIN)/python -m trainer.task --flagfile=configs/demo.cfg

check: lint
	$(PYTEST) -m "not slow"

test: lint
	$(PYTEST) -m "not long"

test-long: $(VENV)/installed-test browser
	$(PYTEST) -m long

# Without it the tests say so and are skipped; in CI they fail.
browser:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  (apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium) \
	  >/dev/null 2>&1 || echo "Chromium cannot be installed: its tests are skipped."; fi

test-io: .venv-io/installed
	.venv-io/bin/python -m pytest -q tests/io

test-beam: .venv-beam/installed
	.venv-beam/bin/python -m pytest -q tests/beam

test-image: $(VENV)/installed-test
	$(BIN)/python -m pytest -q tests/image

test-preflight: .venv-preflight/installed
	.venv-preflight/bin/python -m pytest -q tests/compilers

# Its theme warns of a successor to MkDocs at each build.
screenshots: $(VENV)/installed-test browser
	$(BIN)/python -m docs.take_screenshots

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/installed-test
	$(BIN)/hadolint Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable . $(PIN)
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[test]" $(PIN)
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]" $(PIN)
	touch $@

.venv-io/installed: setup.py
	$(PYTHON) -m venv .venv-io
	.venv-io/bin/python -m pip install --quiet --editable ".[io,test-io]"
	if command -v npm; then npm install --silent --prefix .venv-io azurite@3.35.0; fi
	touch $@

.venv-beam/installed: setup.py
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet --editable ".[dataflow,test-beam]"
	touch $@

# What the main environment has is found there.
.venv-preflight/installed: $(VENV)/installed-test
	$(PYTHON) -m venv .venv-preflight
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$(.venv-preflight/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/main.pth
	.venv-preflight/bin/python -m pip install --quiet --editable ".[preflight,test]"
	touch $@

LOCK = .venv-lock/bin/uv pip compile --quiet --no-config --upgrade setup.py --generate-hashes \
	--python-version 3.11 --python-platform x86_64-manylinux_2_31 --no-header --no-annotate

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv==0.13.8
	$(LOCK) --extra=parquet requirements/cpu.in --output-file requirements/cpu.txt
	$(LOCK) --extra=parquet requirements/gpu.in --output-file requirements/gpu.txt
	$(LOCK) --extra=parquet requirements/tpu.in --override requirements/tpu-without.in \
		--output-file requirements/tpu.txt
	$(LOCK) --extra=dataflow --extra=medical requirements/beam.in --output-file requirements/beam.txt

clean:
	rm -rf .venv .venv-beam .venv-io .venv-lock .venv-preflight .venv-tf* build dist site *.egg-info runs .mypy_cache .pytest_cache .ruff_cache
