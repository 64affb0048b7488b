#!/bin/sh
# sort.sh CHUNK HEADERS: sort one chunk's alignments by position and index them.
set -eu
cd "$CLUSTER_DATA_ROOT"
part=$(mktemp "work/$1.XXXXXX")
chmod 644 "$part"
samtools sort -O bam -T "$WORK_DIR/sort" -o "$part" "work/$1.sam"
samtools index "$part" "$part.bai"
mv "$part.bai" "work/$1.bam.bai"
mv "$part" "work/$1.bam"
echo "$1" >"$WORK_DIR/sink-tasks.txt"
