# The verbs of this project. `make demo` and `make test` are all that a newcomer needs.
# The first Python that fits; smdebug's numpy ends with 3.13.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c '$(FITS)' 2>/dev/null && echo $(p))))
# Most tests wait for processes that they start; two at a time also suit a machine of two cores.
TEST_PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python

.PHONY: help demo down test lint format bench bench-serving docs lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/runtime ## from nothing to a live, tested classifier and a mail, on this machine
	$(BIN)/python -m droptune.demo

down: $(VENV)/runtime ## stop the local cloud; its state is kept
	$(BIN)/droptune down

test: $(VENV)/development ## the whole suite
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

lint: $(VENV)/development ## ruff and mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy droptune benchmarks docs tests
	cd training_code && ../$(BIN)/mypy --config-file ../pyproject.toml .
	cd chalice_app && ../$(BIN)/mypy --config-file ../pyproject.toml .

format: $(VENV)/development ## let ruff write what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/development ## how long each state of a run takes, the accuracy over seeds, the doctor's cost, the import
	$(BIN)/python benchmarks/drop_to_live.py
	$(BIN)/python benchmarks/training_accuracy.py
	$(BIN)/python benchmarks/data_doctor.py --sizes 1000
	$(BIN)/python benchmarks/lambda_import.py

bench-serving: $(VENV)/development ## the endpoint beside the stock SageMaker stack, LitServe and the bare engine (30 minutes)
	$(BIN)/python benchmarks/serving.py

docs: $(VENV)/runtime ## write the commands' help and the API's description anew
	$(BIN)/python docs/generate_command_reference.py
	$(BIN)/python docs/generate_openapi.py

lock: $(VENV)/runtime ## resolve the dependencies of pyproject.toml anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header \
	    --generate-hashes pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header \
	    --generate-hashes --extra dev --constraint requirements.txt pyproject.toml --output-file requirements-dev.txt

clean: ## remove the virtual environment and caches (no state of any local cloud)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info

# uv, since it resolves torch's ordinary PyPI wheel with its CUDA parts in a minute and checks every hash.
$(VENV)/runtime: requirements.txt pyproject.toml
	@echo "setting up $(VENV) (about a minute; torch is large)"
	@test -n "$(PYTHON)" || { echo "droptune needs Python 3.11, 3.12 or 3.13; install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(INSTALL) --require-hashes --requirement requirements.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/development: requirements-dev.txt $(VENV)/runtime
	$(INSTALL) --require-hashes --requirement requirements-dev.txt
	@touch $@
