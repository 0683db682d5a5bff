#!/bin/sh
# Train on several nodes; run this on each of them: MASTER_ADDR=node0 sh train/multi_node_train_4_nodes.sh [CONFIG [KEY=VALUE ...]]
# MASTER_ADDR: host name of one of the nodes. MASTER_PORT: a free port on it. NODES: number of nodes, 4 by default.
# GPUS: processes per node, 8 by default. JOB_ID: tells trainings apart that share a host.
set -eu
cd "$(dirname "$0")/.."
: "${MASTER_ADDR:?set it to the host name of one of the nodes, the same on all of them}"
python=${PYTHON:-python}
config=${1:-i2v-train}
[ $# -gt 0 ] && shift
"$python" train/train.py -c "$config" --check "$@"
exec "$python" -m torch.distributed.run --nnodes "${NODES:-4}" --nproc-per-node "${GPUS:-8}" \
  --rdzv-backend c10d --rdzv-endpoint "$MASTER_ADDR:${MASTER_PORT:-29500}" --rdzv-id "${JOB_ID:-sam-i2v}" \
  train/train.py -c "$config" "$@"
