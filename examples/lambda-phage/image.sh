#!/bin/sh
# Make the image sbx/lambda-phage from Debian packages: no registry, no builder. Quick when it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec python3 "$here/../../deploy/debian_image.py" image sbx/lambda-phage --app "$here/app" \
    --env CLUSTER_DATA_ROOT=/cluster_data_root --env LC_ALL=C --without dpkg --without tar \
    bowtie2 samtools bcftools python3.11 python3-minimal busybox-static
