# make demo: set up, and segment the bunny. make app: the same by clicking, in the browser.
# make test: set up, lint, test. make test-fast: the fast tests. make train-lite: train the Lite model on a CPU.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The versions that this project is tested with; any recent pair works.
TORCH ?= torch==2.14.1 torchvision==0.29.1

.PHONY: demo app test test-fast browser train-lite lint clean

$(VENV)/installed: setup.py
	@echo "Setting up $(VENV): about 3 minutes, most of them for PyTorch"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(VENV)/installed
	rm -rf demo-result
	$(BIN)/python -m i2v.segment assets/bunny.mp4 --point 24,265,90 --both --output demo-result
	@echo "The result is in demo-result: open demo-result/overlay.mp4"

app: $(VENV)/installed
	$(BIN)/python -m i2v.app assets/bunny.mp4

# Train the Lite model on two processor cores: the image segmenter, then video in two parts. Rerun the same command to resume.
# SHARED is the folder of its data sets, LITE are overrides of all configs, LITE_CLIPS of the last two; tools/prepare_lite_data.py
# prints all three. The first training command checks that everything is there, before hours are spent.
# malloc keeps freed memory in the process, so that large blocks are not returned and zeroed again at every step.
SHARED ?= ../shared/data
LITE ?=
LITE_CLIPS ?=
MALLOC := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=10000000000 MALLOC_TOP_PAD_=268435456
TRAIN_LITE := OMP_NUM_THREADS=1 $(MALLOC) $(BIN)/torchrun --standalone --nproc-per-node=2 train/train.py
train-lite: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[train]"
	$(BIN)/python train/train.py --check -c i2v-lite-long initial_weights=null shared=$(SHARED) $(LITE) $(LITE_CLIPS)
	$(TRAIN_LITE) -c i2v-lite-image shared=$(SHARED) $(LITE)
	$(TRAIN_LITE) -c i2v-lite-video shared=$(SHARED) $(LITE) $(LITE_CLIPS)
	$(TRAIN_LITE) -c i2v-lite-long shared=$(SHARED) $(LITE) $(LITE_CLIPS)
	$(BIN)/python tools/export_checkpoint.py runs/lite-long/best.pt checkpoints/sam-i2v_lite.pt

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal
test: lint
	$(PYTEST)

# An answer within a minute: all tests but the slow ones.
test-fast: $(VENV)/installed
	$(PYTEST) -m "not slow"

# What the tests of the page in a real browser need; without it they are skipped. Chromium is installed as on Debian, as root.
browser:
	command -v chromium google-chrome > /dev/null || { apt-get update -q && apt-get install -y -q chromium; }
	npm install --no-save --no-audit --no-fund --prefix build/axe axe-core

clean:
	rm -rf $(VENV) demo-result .pytest_cache .ruff_cache .mypy_cache
