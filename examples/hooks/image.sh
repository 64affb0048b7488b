#!/bin/sh
# Make the image sbx/hooks from Debian packages: no registry, no builder. Quick when it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec python3 "$here/../../deploy/debian_image.py" image sbx/hooks --app "$here/app" busybox-static
