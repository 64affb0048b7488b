#!/bin/sh
# The whole pipeline on real reads, then the check against running the tools by hand.
# `make demo-genomics` sees to the environment and the engine. DATA_ROOT says where the data lie.
set -eu
cd "$(dirname "$0")/../.."
example=$PWD/examples/lambda-phage
data=${DATA_ROOT:-$PWD/.build/lambda-phage}
if [ "${SBX_RUNTIME:-}" = process ]; then
    for tool in bowtie2 samtools bcftools; do
        command -v $tool >/dev/null || {
            echo "run.sh: without a container engine this needs bowtie2, samtools and bcftools on the host" >&2
            exit 69
        }
    done
    set -- --runtime process --set "APP=$example/app" --set "DATA=$data"
else
    "$example/image.sh"
fi
rm -rf "$data/work" "$data/result" "$data/by-hand"   # what is checked is what this run made
"$example/data.sh" "$data"
set -- run "$example/topology.yaml" --mount-root "data=$data:rw" --send split "phage 8" "$@"
echo "\$ sbx-actor $*"
PATH=$PWD/.venv/bin:$PATH
sbx-actor "$@"
exec python3 "$example/check.py" "$data" phage
