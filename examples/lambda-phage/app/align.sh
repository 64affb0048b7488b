#!/bin/sh
# align.sh CHUNK HEADERS: align the read pairs of one chunk.
set -eu
cd "$CLUSTER_DATA_ROOT"
part=$(mktemp "work/$1.XXXXXX")
chmod 644 "$part"
bowtie2 -x genome/lambda_virus -1 "work/$1_1.fq" -2 "work/$1_2.fq" -S "$part"
mv "$part" "work/$1.sam"
echo "$1" >"$WORK_DIR/sink-tasks.txt"
