#!/bin/sh
# The main job, from the image to the answer. `make demo` sees to the environment and the engine.
set -eu
cd "$(dirname "$0")/../.."
if [ "${SBX_RUNTIME:-}" = process ]; then
    set -- --runtime process --set "APP=$PWD/examples/primes/app"
else
    examples/primes/image.sh
fi
set -- run examples/primes/topology.yaml --send split 100000 "$@"
echo "\$ sbx-actor $*"
PATH=$PWD/.venv/bin:$PATH
exec sbx-actor "$@"
