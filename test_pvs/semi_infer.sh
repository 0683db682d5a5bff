#!/bin/sh
# Semi-supervised benchmark, first half: DATASET=davis2016 DATA=/data/DAVIS OUT=results/3c INPUT=3c sh test_pvs/semi_infer.sh
# DATASET: name of the data set (python -m test_pvs.datasets --help), or package.module:function. DATA: its folder.
# OUT: folder for the results.
# INPUT: 3c (three clicks, the default), bb (box), gm (ground-truth mask).
# SYSTEM: sam-i2v (default), sam2, optical-flow, static-mask, sam+... or package.module:function.
# CONFIG, CKPT, PRECISION: config, weights and precision of the system (default: the Lite model);
#   CONFIG=i2v-infer CKPT=checkpoints/sam-i2v_32gpu.pt for the published weights.
# DEVICES: cuda:0,cuda:1; cuda (all); cpu:2 (two workers). Default: all GPUs, or the CPU.
# VIDEOS: names of videos, separated by spaces (default: all). VOID: label of pixels that belong to no object, such as 255.
# Without DATASET, DATA, OUT, SYSTEM, CONFIG and CKPT it runs the published test: SAV-Test in data/sav_test with
#   checkpoints/sam-i2v_32gpu.pt.
# Further arguments go to python -m test_pvs.semi_supervised. Rerun to resume.
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
