#!/bin/sh
# Semi-supervised benchmark, first half: DATASET=davis2016 DATA=/data/DAVIS OUT=results/3c INPUT=3c sh test_pvs/semi_infer.sh
# DATASET: name of the data set (python -m test_pvs.datasets --help), or package.module:function. DATA: its folder. OUT: folder of the results.
# INPUT: 3c (three clicks, the default), bb (box), gm (ground-truth mask).
# SYSTEM: sam-i2v (default), sam2, optical-flow, static-mask, sam+... or package.module:function. CONFIG, CKPT, PRECISION: of the system;
#   CONFIG=i2v-infer CKPT=checkpoints/sam-i2v_32gpu.pt for the published weights, by default the Lite model.
# DEVICES: cuda:0,cuda:1; cuda (all); cpu:2 (two workers); by default all GPUs, or the CPU.
# VIDEOS: only these, names with spaces between them. VOID: the label, such as 255, of pixels that belong to no object.
# Without DATASET, DATA, OUT, SYSTEM, CONFIG and CKPT it is the published test: SAV-Test in data/sav_test, checkpoints/sam-i2v_32gpu.pt.
# Further arguments go to python -m test_pvs.semi_supervised. Started again after a kill, it goes on where it was.
set -eu
project=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${DATASET:-}${DATA:-}${OUT:-}${SYSTEM:-}${CONFIG:-}${CKPT:-}" ]; then # as published
  DATASET=sav DATA=$project/data/sav_test OUT=$project/output_semi/Semi_SAVTest_sam-i2v_32gpu_${INPUT:-3c}
  CONFIG=i2v-infer CKPT=$project/checkpoints/sam-i2v_32gpu.pt
  [ -d "$DATA" ] || { echo "error: no such folder: $DATA: put SAV-Test there, or set DATASET, DATA and OUT" >&2; exit 2; }
fi
: "${DATASET:?set it to the name of the data set}" "${DATA:?set it to the folder of the data set}" "${OUT:?set it to a folder}"
# shellcheck disable=SC2086 # VIDEOS is a list
PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m test_pvs.semi_supervised "$DATASET" "$DATA" \
  --output "$OUT" --input "${INPUT:-3c}" --system "${SYSTEM:-sam-i2v}" --devices "${DEVICES:-}" \
  ${CONFIG:+--config "$CONFIG"} ${CKPT:+--checkpoint "$CKPT"} ${PRECISION:+--precision "$PRECISION"} \
  ${VIDEOS:+--videos $VIDEOS} ${VOID:+--void "$VOID"} "$@"
