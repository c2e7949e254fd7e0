#!/usr/bin/env bash
# Training on a borrowed GPU machine without internet, in two commands.
#
#   train/on_gpu.sh pack TRAVEL SIRST NUDT-SIRST BACKGROUND   here: what must travel, under 60 MiB
#   train/on_gpu.sh run TRAVEL OUT            there: trains, writes weights, logs and the table
#
# There, Python has torch, numpy, click and OpenCV; the wheels bring the rest. MODELS, SEEDS, EPOCHS,
# BATCH and DEVICE may be set: MODELS="lrrnet lrrnet-edge" SEEDS="0 1 2" EPOCHS=400 BATCH=32.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
LIMIT_KIB=$((60 * 1024))
WHEELS="lightning-fabric lightning-utilities tensorboardX msgspec safetensors fsspec"

pack() {
  local travel=$1
  shift
  rm -rf "$travel" && mkdir -p "$travel/data" "$travel/wheels"
  for folder in "$@"; do
    cp -rL "$folder" "$travel/data/"
  done
  # shellcheck disable=SC2086
  python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 -d "$travel/wheels" $WHEELS
  local size
  size=$(du -sk "$travel" | cut -f1)
  echo "$travel: $((size / 1024)) MiB"
  if ((size > LIMIT_KIB)); then
    echo "more than $((LIMIT_KIB / 1024)) MiB; leave a dataset out" >&2
    exit 1
  fi
}

run() {
  local travel=$1 out=$2
  mkdir -p "$out" && out=$(cd "$out" && pwd)
  local work data
  work=$(mktemp -d)
  if [ -z "${WITHOUT_WHEELS:-}" ]; then
    python3 -m pip install --quiet --no-index --no-deps --target "$work/site" "$travel"/wheels/*.whl
  fi
  ln -s "$ROOT" "$work/irstd"
  export PYTHONPATH="$work:$work/site"
  data=()
  for folder in "$travel"/data/*; do
    if [ -f "$folder/train.txt" ]; then data+=(--data "$folder"); else data+=(--backgrounds "$folder"); fi
  done
  for model in ${MODELS:-lrrnet lrrnet-edge}; do
    for seed in ${SEEDS:-0 1 2}; do
      python3 -m irstd.train.commands --model "$model" "${data[@]}" --seed "$seed" \
        --epochs "${EPOCHS:-400}" --batch "${BATCH:-32}" --device "${DEVICE:-cuda}" \
        --set arithmetic=bf16 --set validate_every=10 --workers 8 \
        --output "$work/$model-$seed.safetensors"
      cp "$work/$model-$seed.safetensors" "$work/$model-$seed.csv" "$out/"
    done
  done
  table "$out" ${MODELS:-lrrnet lrrnet-edge} | tee "$out/table.md"
  rm -rf "$work"
}

# Mean and standard deviation over the seeds of what the chosen weights score on the val lists.
table() {
  python3 - "$@" <<'PYTHON'
import statistics
import sys
from pathlib import Path

from irstd.train.checkpoint import read_weights

print("| model | seeds | score | mean | sd |\n|---|---|---|---|---|")
for model in sys.argv[2:]:
    files = sorted(Path(sys.argv[1]).glob(f"{model}-[0-9]*.safetensors"))
    notes = [read_weights(file).notes for file in files]
    for name in sorted(key for key in notes[0] if key.startswith("val.")):
        values = [float(note[name]) for note in notes]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"| {model} | {len(values)} | {name} | {statistics.mean(values):.4f} | {spread:.4f} |")
PYTHON
}

case "${1:-}" in
pack) shift && pack "$@" ;;
run) shift && run "$@" ;;
*)
  echo "usage: train/on_gpu.sh pack TRAVEL DATASET ... | run TRAVEL OUT" >&2
  exit 2
  ;;
esac
