# One command a job. `make` alone lists them.

PYTHON ?= python3
REPOSITORY ?= models
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
PACKAGES := --editable 'server[cpu,client]' --editable 'exporter[cpu,demo]'
TOOLS := .tools/perf_analyzer .tools/digitsclassifier .tools/onnxruntime-1.17
PINS := constraints.txt server/pyproject.toml exporter/pyproject.toml

.PHONY: help setup serve predict test test-fleet test-legacy-keras test-triton-examples soak check format protos constraints bench bench-quick bench-path bench-overload bench-report bench-client bench-export bench-export-all bench-hostile image image-test clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 19

setup: .venv/runtime.stamp  ## Make .venv with both packages and pinned versions

serve: setup  ## Train the demo models (once), export and verify them, and serve them on 127.0.0.1:8001
	@$(BIN)/conveyor-export demo --repository $(REPOSITORY)
	@echo "Next, in another terminal:  make predict"
	@$(BIN)/conveyor-server --repository $(REPOSITORY)

predict: setup  ## Ask the running server for a few real digits
	@$(BIN)/conveyor-export samples .samples
	@$(BIN)/conveyor-client predict digits .samples/*/*.png --true-label-from-folder --show

test: .venv/development.stamp $(TOOLS)  ## Install what the tests need, and run them all
	@sh tests/system_packages.sh
	$(BIN)/pytest

test-fleet: .venv/development.stamp  ## Three replicas behind the real Envoy and HAProxy: restarts, kills, hangs
	@sh tests/system_packages.sh
	$(BIN)/pytest tests/fleet

test-legacy-keras: .venv/development.stamp .tools/tensorflow-2.15  ## Read what Keras 2 on TensorFlow saves (a gigabyte, once)
	$(BIN)/pytest tests/legacy_keras

test-triton-examples: .venv/development.stamp .tools/triton-examples/stamp  ## The Triton project's example clients, as they are, against our server
	$(BIN)/pytest tests/triton_examples

check: .venv/development.stamp  ## Lint, format, types, import contracts, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python protos/generate.py --check

format: .venv/development.stamp  ## Format the code, and mend what the linter can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

protos: .venv/development.stamp  ## Generate the Python code of the wire contract
	$(BIN)/python protos/generate.py

constraints:  ## Pin the newest versions that the pyproject files admit, in constraints.txt
	rm -rf .venv && $(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0 $(PACKAGES) --group test --group check
	(sed -n '/^#/p' constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//') > .venv/pins
	mv .venv/pins constraints.txt

soak: .venv/development.stamp  ## Half an hour of everything at once, with restarts: leaks, errors out of the contract; SOAK_SECONDS=…
	SOAK_SECONDS=$${SOAK_SECONDS:-1800} $(BIN)/pytest -s tests/system/test_soak.py

bench-hostile: .venv/development.stamp  ## What a good client notices beside a hostile one, on both transports; 15 minutes
	$(BIN)/python benchmarks/hostile.py --json docs/benchmarks/hostile.json

bench-export: .venv/development.stamp  ## Our ONNX files beside those of Keras and torch: size, speed, time to export
	$(BIN)/python benchmarks/export.py

bench-export-all: .venv/development.stamp  ## … and of tf2onnx and optimum, which bring TensorFlow and another torch, 3 GB, once
	$(BIN)/python benchmarks/export.py --all --json docs/benchmarks/export.json

bench: .venv/development.stamp .tools/perf_analyzer .benchmarks/demo  ## Ours beside every rival, then all under overload; about 40 minutes; docs/benchmarks.md anew
	@sh tests/system_packages.sh nghttp2-client libb64-0d
	$(BIN)/python benchmarks/compare.py --demo .benchmarks/demo --json docs/benchmarks/comparison.json
	$(BIN)/python benchmarks/overload.py --json docs/benchmarks/overload.json
	$(BIN)/python benchmarks/report.py

bench-quick: .venv/development.stamp  ## The ratios that a change must not worsen, in 3 minutes
	@sh tests/system_packages.sh nghttp2-client libb64-0d
	$(BIN)/python benchmarks/quick.py

bench-path: .venv/development.stamp  ## What a request costs inside the process, to a tenth of a microsecond; 10 seconds
	$(BIN)/python benchmarks/request_path.py --sample 30

bench-overload: .venv/development.stamp  ## Up to three times what servers sustain: what is answered, refused, lost; 17 minutes
	$(BIN)/python benchmarks/overload.py

bench-report: .venv/development.stamp  ## docs/benchmarks.md and its charts, from docs/benchmarks/*.json
	$(BIN)/python benchmarks/report.py

bench-client: .venv/development.stamp  ## What a call costs the client, beside a bare stub and tritonclient; gathering
	$(BIN)/python benchmarks/client.py

image:  ## Build the server image with docker, podman or buildah, whichever runs here
	deploy/build.sh server cpu

image-test: setup  ## Build the image for real with buildah, start it, predict, stop it
	deploy/image_test.sh

clean:  ## Remove everything that was made here, but for the models
	rm -rf .venv .tools .benchmarks .samples .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Conveyor needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip

.venv/runtime.stamp: .venv/bin/pip $(PINS)
	@echo "Installing both packages into .venv; the first time, this takes some minutes."
	$(INSTALL) $(PACKAGES)
	@touch $@

.venv/development.stamp: .venv/runtime.stamp pyproject.toml
	$(INSTALL) $(PACKAGES) --group test --group check
	@touch $@

# What tests need and .venv must not have: programs, data and old releases that would be in the way of the new ones.
INSTALL_TOOL = $(BIN)/pip install --quiet --disable-pip-version-check --target $@

# NVIDIA's load generator is a program inside this release of tritonclient.
.tools/perf_analyzer: .venv/bin/pip
	$(INSTALL_TOOL) --no-deps tritonclient==2.41.0 nvidia-cuda-runtime-cu12==12.9.79
	@touch $@

# Carries a trained .keras file that is not ours.
.tools/digitsclassifier: .venv/bin/pip
	$(INSTALL_TOOL) --no-deps digitsclassifier==2.1.0
	@touch $@

# The models of the demo, whose start is measured.
.benchmarks/demo: .venv/runtime.stamp
	$(BIN)/conveyor-export demo --repository $@

# An environment with an old runtime that must still load what the exporter writes.
.tools/onnxruntime-1.17:
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check onnxruntime==1.17.3 'numpy<2'

# An environment with Keras 2, whose files must still be read.
.tools/tensorflow-2.15:
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check tensorflow-cpu==2.15.1

# The example clients of the Triton project, at one commit, and an environment for them.
TRITON_CLIENT ?= https://github.com/triton-inference-server/client
TRITON_CLIENT_COMMIT := 58a44caa0dce77303115302e6dbdf64626b2b093
.tools/triton-examples/stamp:
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)/environment
	$(@D)/environment/bin/pip install --quiet --disable-pip-version-check 'tritonclient[grpc,http]==2.73.0' pillow
	git init --quiet $(@D)/client
	git -C $(@D)/client fetch --quiet --depth 1 $(TRITON_CLIENT) $(TRITON_CLIENT_COMMIT)
	git -C $(@D)/client checkout --quiet FETCH_HEAD
	@touch $@
