#!/bin/sh
# Train on one node: sh train/train.sh [CONFIG [KEY=VALUE ...]]
# GPUS: number of processes, 8 by default. PYTHON: the interpreter. Missing files are reported once, before they start.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
config=${1:-i2v-train}
[ $# -gt 0 ] && shift
"$python" train/train.py -c "$config" --check "$@"
exec "$python" -m torch.distributed.run --standalone --nproc-per-node "${GPUS:-8}" train/train.py -c "$config" "$@"
