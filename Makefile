# Two commands: `make demo` and `make test`. Each sets up .venv first; a second call finds it ready.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(if $(shell $(name) --version 2>/dev/null),$(name))))
BIN = .venv/bin
READY = .venv/.ready
export G2L_DATA

.PHONY: demo test lint clean

demo: $(READY)
	$(BIN)/python -m g2l fit --config configs/demo.yaml

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -m "not gpu"

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/pyright

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); sys.exit(0 if ok else "g2l needs Python 3.11 or 3.12; name one with make PYTHON=...")'
	@echo "installing into .venv (about 9 GB with CUDA; minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# A machine without a screen lacks libGL, which opencv's full build (tiatoolbox asks for it) needs: put the headless
	@# build of the same version in its place.
	@$(BIN)/python -c "import cv2" 2>/dev/null || $(BIN)/python -m pip install --quiet --no-deps --force-reinstall \
		"opencv-python-headless==$$(sed -n 's/^opencv-python==//p' constraints.txt)"
	@touch $(READY)

clean:
	rm -rf .venv runs cohorts build *.egg-info
