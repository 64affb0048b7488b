#!/bin/sh
# Once for a batch: the bodies are in batch-tasks.txt, between the id and the headers; a message
# that comes alone has no such file.
set -eu
sum=0
if [ -e "$WORK_DIR/batch-tasks.txt" ]; then
    while IFS=, read -r _ value _; do sum=$((sum + value)); done < "$WORK_DIR/batch-tasks.txt"
else
    sum=$1
fi
echo "$sum" > "$WORK_DIR/sink-tasks.txt"
