# Two commands do everything: make demo, make test. Each makes its own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench bench-gpu models clean

demo: .venv/.demo
	@rm -rf demo
	$(BIN)/python samples/make_sequence.py demo/sequence
	$(BIN)/irstd-export --model lrrnet --int8 --bit-depth 14 --output demo/lrrnet-int8
	$(BIN)/irstd-detect demo/lrrnet-int8 demo/sequence/frames --precision int8 json:demo/targets.jsonl overlay:demo/seen
	$(BIN)/python samples/compare_with_truth.py demo/targets.jsonl demo/sequence demo/lrrnet-int8

test: .venv/.dev
	$(BIN)/python -m pytest

check: .venv/.dev .types/irstd
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.bench
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/bench.py

# On a machine with an NVIDIA GPU; elsewhere it says that there is none. Results: bench-gpu.json,
# and out of it the README's tables, printed.
# What else shall compete comes first: .venv/bin/pip install -e '.[cuda13,rtx]' (or cuda12, tensorrt).
bench-gpu: .venv/.bench
	$(BIN)/python tests/bench_gpu.py bench-gpu.json
	$(BIN)/python tests/bench_gpu_table.py bench-gpu.json

# The README's table of models, out of the cards beside the weights.
models: .venv/.dev
	$(BIN)/python -m irstd.export.cards tables

clean:
	rm -rf .venv .types demo

# Each stamp stands for one set of packages, installed again when the lists change.
.venv/.demo: EXTRAS = export
.venv/.dev: EXTRAS = dev
.venv/.bench: EXTRAS = bench
.venv/.demo .venv/.dev .venv/.bench: pyproject.toml constraints.txt | .venv
	@echo "installing irstd[$(EXTRAS)] into .venv; the first time takes minutes"
	@$(INSTALL) -e ".[$(EXTRAS)]"
	@touch $@

.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "irstd needs Python 3.10 or newer; name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "python3 has no venv module; on Debian: apt install python3-venv"; exit 1; }

# Type checkers read the tree as the package that it becomes.
.types/irstd:
	@mkdir -p .types && ln -sfn .. .types/irstd
