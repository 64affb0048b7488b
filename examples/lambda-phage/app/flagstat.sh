#!/bin/sh
# flagstat.sh SAMPLE HEADERS: count how the sample's reads were aligned.
set -eu
cd "$CLUSTER_DATA_ROOT"
part=$(mktemp "result/$1.XXXXXX")
chmod 644 "$part"
samtools flagstat "result/$1.bam" >"$part"
mv "$part" "result/$1.flagstat"
echo "result/$1.flagstat" >"$WORK_DIR/sink-tasks.txt"
