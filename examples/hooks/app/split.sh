#!/bin/sh
# $1 is a number; each number up to it becomes a reading.
set -eu
seq 1 "$1" > "$WORK_DIR/sink-tasks.txt"
