#!/bin/sh
# Semi-supervised benchmark, second half, J&F: DATASET=davis2016 DATA=/data/DAVIS OUT=results/3c sh test_pvs/semi_eval.sh
# DATASET, DATA, OUT, VIDEOS, VOID, and INPUT if these are not set: see semi_infer.sh.
# Further arguments go to sav_dataset/sav_evaluator.py. The table is also written to $OUT/masks/results.csv. If the script is
# killed, the previous table and ground truth stay; after an error the previous table is $OUT/masks/results.old.csv.
set -eu
project=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${DATASET:-}${DATA:-}${OUT:-}${SYSTEM:-}${CONFIG:-}${CKPT:-}" ]; then # as published
  DATASET=sav DATA=$project/data/sav_test OUT=$project/output_semi/Semi_SAVTest_sam-i2v_32gpu_${INPUT:-3c}
  [ -d "$DATA" ] || { echo "error: no such folder: $DATA: put SAV-Test there, or set DATASET, DATA and OUT" >&2; exit 2; }
fi
: "${DATASET:?set it to the name of the data set}" "${DATA:?set it to the folder of the data set}" "${OUT:?set it to a folder}"
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
[ -d "$OUT/masks" ] || { echo "error: no such folder: $OUT/masks: run semi_infer.sh with this OUT first" >&2; exit 1; }
[ -f "$OUT/results.json" ] ||
  echo "warning: no $OUT/results.json: this run was not finished, and missing masks score 0; rerun semi_infer.sh" >&2
table="$OUT/masks/results.csv"

# Ends the script after an error. The previous table may be of other videos or annotations, so it is set aside.
fail() {
  [ "$1" -le 128 ] || exit "$1" # killed: leave everything as it was
  if [ -f "$table" ]; then
    mv -f "$table" "$OUT/masks/results.old.csv"
    echo "error: there is no new table; the previous one is now $OUT/masks/results.old.csv" >&2
  fi
  exit "$1"
}

rm -rf "$OUT/ground_truth.new" # left by an evaluation that was killed
exported=0
settings=$OUT/settings.json
[ -f "$settings" ] || settings= # the masks were made by another program
# shellcheck disable=SC2086 # VIDEOS is a list
unusable=$("${PYTHON:-python}" -m test_pvs.datasets --export "$DATASET" "$DATA" "$OUT/ground_truth.new" \
  ${VIDEOS:+--videos $VIDEOS} ${VOID:+--void "$VOID"} ${settings:+--settings "$settings"}) || exported=$?
[ -d "$OUT/ground_truth.new" ] || fail "$exported"
scored=0
# The evaluator replaces the table when the new one is complete.
"${PYTHON:-python}" -m sav_dataset.sav_evaluator --gt_root "$OUT/ground_truth.new" --pred_root "$OUT/masks" "$@" || scored=$?
[ -z "$unusable" ] || printf 'error: these videos are not scored, because their ground truth cannot be used:\n%s\n' "$unusable" >&2
[ "$scored" = 0 ] || fail "$scored"
rm -rf "$OUT/ground_truth" "$OUT/masks/results.old.csv"
mv "$OUT/ground_truth.new" "$OUT/ground_truth"
exit "$exported"
