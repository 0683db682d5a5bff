#!/bin/sh
# Makes all runs of the report in this folder, and the report: DATA=../shared/data RUNS=results sh docs/results/run.sh
# Rerun to resume. Variables of the benchmarks (DEVICES, CKPT ...) are passed on.
# REPORT: folder of the report (default: this one). SYSTEMS: names separated by spaces (default: all four).
set -eu
cd "$(dirname "$0")/../.."
shared=${DATA:-../shared/data} runs=${RUNS:-results} systems=${SYSTEMS:-sam-i2v sam+optical-flow optical-flow static-mask}

run() { # DATASET FOLDER
  export DATASET="$1" DATA="$shared/$2"
  for SYSTEM in $systems; do
    export SYSTEM
    for INPUT in 1c 3c 5c bb gm; do
      export INPUT OUT="$runs/$2-semi-$INPUT-$SYSTEM"
      sh test_pvs/semi_infer.sh
      sh test_pvs/semi_eval.sh
    done
    for CLICKS in 1 3 5; do
      export CLICKS
      MODE=online OUT="$runs/$2-online-$CLICKS-$SYSTEM" sh test_pvs/interactive.sh --curve
      MODE=offline OUT="$runs/$2-offline-$CLICKS-$SYSTEM" sh test_pvs/interactive.sh
    done
  done
}

run davis2016 davis2016-dev
run pumavos pumavos-chair
for system in $systems; do
  set -- "$@" "$runs"/*-"$system"
done
"${PYTHON:-python}" -m test_pvs.report "$@" \
  --output "${REPORT:-docs/results}" --strips dog chair --strip-settings 3c gm
