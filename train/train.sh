#!/bin/sh
# Train on one node: sh train/train.sh [CONFIG [KEY=VALUE ...]]
# GPUS: number of processes, 8 by default.
set -eu
cd "$(dirname "$0")/.."
config=${1:-i2v-train}
[ $# -gt 0 ] && shift
exec torchrun --standalone --nproc-per-node "${GPUS:-8}" train/train.py -c "$config" "$@"
