# Every target does its own set-up on a machine that has Python 3.11 or newer, make and apt.
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check bench models faults system lock clean

run: $(VENV)/run
	@$(BIN)/appliance demo

test: $(VENV)/test $(VENV)/tflite-runtime/done $(VENV)/clients/done $(VENV)/mlserver/done $(VENV)/generated/done $(VENV)/mqttjs/done
	@tests/needs.sh mosquitto chromium curl openssl systemd-analyze cc java-client mono-client strace softhsm2-util
	@$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest

check: $(VENV)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The long form of what tests/faults does briefly: each fault up to a thousand times, with a table at the end. FAULTS=60
# makes each at most 60 times.
FAULTS ?= long
faults: $(VENV)/test
	@tests/needs.sh mosquitto strace
	FAULTS=$(FAULTS) FAULTS_REPORT=faults.txt $(BIN)/python -m pytest tests/faults tests/integration/test_reload.py tests/integration/test_swaps.py

# The units under a systemd of their own, in a small Debian that is made once, and a disk that fails; as root.
system: $(VENV)/test
	@tests/needs.sh systemd-analyze debootstrap systemd-nspawn mkfs.ext4
	BOOT=1 $(BIN)/python -m pytest tests/system

bench: $(VENV)/test
	@tests/needs.sh mosquitto wrk
	$(BIN)/python -m benchmarks.run

# Train the shipped models again, in an environment of their own.
models: $(VENV)/train/done
	$(VENV)/train/bin/python -m models.train.surface
	$(VENV)/train/bin/python -m models.train.bearing
	$(VENV)/train/bin/python -m models.train.parts

# Write the lock files again from pyproject.toml: versions and hashes, no addresses.
COMPILE_ALONE = $(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --no-annotate --universal
COMPILE = $(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --no-annotate pyproject.toml
lock: $(VENV)/python
	$(BIN)/python -m pip install -q uv
	$(COMPILE) --universal --extra demo -o requirements.lock
	$(COMPILE) --universal -c requirements.lock --extra test --extra check -o tests/requirements.lock
	$(COMPILE) --python-version 3.11 --extra tflite-runtime -o tests/tflite-runtime.lock
	$(COMPILE_ALONE) tests/clients/requirements.in -o tests/clients.lock
	$(COMPILE_ALONE) tests/clients/mlserver.in -o tests/mlserver.lock

$(VENV)/python:
	@tests/needs.sh python3-venv
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run: $(VENV)/python requirements.lock
	@echo "Installing the appliance and its demo into $(VENV) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/test: $(VENV)/run tests/requirements.lock
	@echo "Installing what the tests need into $(VENV) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@touch $@

# The older TFLite interpreter wants an older NumPy: an environment of its own.
$(VENV)/tflite-runtime/done: tests/tflite-runtime.lock | $(VENV)/python
	@$(PYTHON) -m venv $(VENV)/tflite-runtime
	@$(VENV)/tflite-runtime/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r tests/tflite-runtime.lock
	@touch $@

# The clients of other servers, and a server of another make: each wants packages of its own age.
$(VENV)/clients/done: tests/clients.lock | $(VENV)/python
	@echo "Installing tritonclient and KServe's client into $(VENV)/clients ..."
	@$(PYTHON) -m venv $(VENV)/clients
	@$(VENV)/clients/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r tests/clients.lock
	@touch $@

$(VENV)/mlserver/done: tests/mlserver.lock | $(VENV)/python
	@echo "Installing MLServer into $(VENV)/mlserver ..."
	@$(PYTHON) -m venv $(VENV)/mlserver
	@$(VENV)/mlserver/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r tests/mlserver.lock
	@touch $@

# What makes clients from the OpenAPI document, and runs the one in TypeScript.
$(VENV)/generated/done: tests/generated/requirements.lock | $(VENV)/python
	@echo "Installing the client generators into $(VENV)/generated ..."
	@$(PYTHON) -m venv $(VENV)/generated
	@$(VENV)/generated/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r tests/generated/requirements.lock
	@PATH=$(CURDIR)/$(VENV)/generated/bin:$$PATH npm install --silent --no-audit --no-fund --prefix $(VENV)/generated typescript@5.9.3
	@touch $@

# MQTT.js, run by the Node that came with the generators.
$(VENV)/mqttjs/done: | $(VENV)/generated/done
	@mkdir -p $(VENV)/mqttjs
	@PATH=$(CURDIR)/$(VENV)/generated/bin:$$PATH npm install --silent --no-audit --no-fund --prefix $(VENV)/mqttjs mqtt@5.16.0
	@touch $@

$(VENV)/train/done: models/train/requirements.txt | $(VENV)/python
	@$(PYTHON) -m venv $(VENV)/train
	@$(VENV)/train/bin/python -m pip install -q --disable-pip-version-check -r models/train/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
