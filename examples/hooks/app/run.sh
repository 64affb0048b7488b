#!/bin/sh
# Once for each message: $1 is a reading.
set -eu
read -r _ gain < "$WORK_DIR/table"
echo $(($1 * gain)) > "$WORK_DIR/sink-tasks.txt"
