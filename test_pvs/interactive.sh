#!/bin/sh
# Interactive benchmarks: MODE=online DATASET=davis2016 DATA=/data/DAVIS OUT=results/online-3c CLICKS=3 sh test_pvs/interactive.sh
# MODE: online (one pass, default) or offline (several). CLICKS: maximum number per interacted frame: 1, 3 (default) or 5.
# DATASET: name of the data set (python -m test_pvs.datasets --help), or package.module:function. DATA: its folder.
# OUT: folder for the results.
# SYSTEM, CONFIG, CKPT, PRECISION, DEVICES, VIDEOS, VOID: see semi_infer.sh.
# Further arguments go to python -m test_pvs.interactive. Rerun to resume.
set -eu
: "${DATASET:?set it to the name of the data set}" "${DATA:?set it to the folder of the data set}" "${OUT:?set it to a folder}"
project=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck disable=SC2086 # VIDEOS is a list
PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m test_pvs.interactive "${MODE:-online}" "$DATASET" "$DATA" \
  --output "$OUT" --clicks "${CLICKS:-3}" --system "${SYSTEM:-sam-i2v}" --devices "${DEVICES:-}" \
  ${CONFIG:+--config "$CONFIG"} ${CKPT:+--checkpoint "$CKPT"} ${PRECISION:+--precision "$PRECISION"} \
  ${VIDEOS:+--videos $VIDEOS} ${VOID:+--void "$VOID"} "$@"
