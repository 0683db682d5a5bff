#!/bin/sh
# Train on one node: sh train/train.sh [CONFIG [KEY=VALUE ...]]
# GPUS: number of processes, 8 by default. What is missing is said before they start, once.
set -eu
cd "$(dirname "$0")/.."
config=${1:-i2v-train}
[ $# -gt 0 ] && shift
"${PYTHON:-python}" train/train.py -c "$config" --check "$@"
exec torchrun --standalone --nproc-per-node "${GPUS:-8}" train/train.py -c "$config" "$@"
