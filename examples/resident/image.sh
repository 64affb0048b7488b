#!/bin/sh
# Make the image sbx/resident from Debian packages: no registry, no builder. Quick when it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec python3 "$here/../../deploy/debian_image.py" image sbx/resident --app "$here/app" \
    --without dpkg --without tar python3-minimal python3.11 busybox-static
