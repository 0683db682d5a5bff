#!/bin/sh
# Semi-supervised benchmark, second half, J&F: DATASET=davis2016 DATA=/data/DAVIS OUT=results/3c sh test_pvs/semi_eval.sh
# DATASET, DATA, OUT, VIDEOS, VOID: as for semi_infer.sh.
# Further arguments go to sav_dataset/sav_evaluator.py. The table is written to $OUT/masks/results.csv, too.
set -eu
: "${DATASET:?set it to the name of the data set}" "${DATA:?set it to the folder of the data set}" "${OUT:?set it to a folder}"
project=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
[ -d "$OUT/masks" ] || { echo "error: no such folder: $OUT/masks: run semi_infer.sh with this OUT first" >&2; exit 1; }
[ -f "$OUT/results.json" ] ||
  echo "warning: no $OUT/results.json: this run was not finished, and what it lacks scores 0; start semi_infer.sh again" >&2
rm -rf "$OUT/ground_truth" "$OUT/masks/results.csv" # of an earlier evaluation, perhaps of other videos or annotations
status=0
# shellcheck disable=SC2086 # VIDEOS is a list
unusable=$("${PYTHON:-python}" -m test_pvs.datasets --export "$DATASET" "$DATA" "$OUT/ground_truth" ${VIDEOS:+--videos $VIDEOS} \
  ${VOID:+--void "$VOID"}) || status=$?
[ -d "$OUT/ground_truth" ] || exit "$status"
"${PYTHON:-python}" -m sav_dataset.sav_evaluator --gt_root "$OUT/ground_truth" --pred_root "$OUT/masks" "$@" || status=$?
[ -z "$unusable" ] || printf 'error: videos that are not scored, because their ground truth cannot be used:\n%s\n' "$unusable" >&2
exit "$status"
