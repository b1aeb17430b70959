# Each target sets itself up. Needs Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
RECIPE ?= jobs/recipes/questions.yaml
BENCH ?= all
ROUNDS ?= 4
PROCESSES ?= 2
STARTED := $(shell date +%s)

.PHONY: demo test lint chaos bench clean

demo: $(VENV)/ready
	$(VENV)/bin/python -m jobs.demo $(RECIPE) --began $(STARTED) $(ARGUMENTS)

# No worker is started again after a crash: pytest-xdist then hands out files that are done and waits for ever.
test: $(VENV)/ready-dev
	$(VENV)/bin/python -m pytest -rR -n $(PROCESSES) --dist loadfile --max-worker-restart 0 $(ARGUMENTS)

lint: $(VENV)/ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/python -m cluster.generate --check
	$(VENV)/bin/python -m tests.audit

chaos: $(VENV)/ready-dev
	RAYSTILL_CHAOS_ROUNDS=$(ROUNDS) $(VENV)/bin/python -m pytest -s tests/chaos $(ARGUMENTS)

bench: $(VENV)/ready-dev
	$(VENV)/bin/python -m tests.benchmarks $(BENCH)

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

# torch first and by itself, so that its pinned build is taken and no other package asks for a larger one.
$(VENV)/ready: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[dev,mlflow,wandb]"
	touch $@

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache
