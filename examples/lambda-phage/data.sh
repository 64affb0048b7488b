#!/bin/sh
# data.sh DIR: make DIR the pipeline's data root: the genome of phage lambda with its bowtie2 index
# and 10,000 read pairs, all from Debian's bowtie2-examples. Quick when it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
root=$(cd "$1" && pwd)
if [ ! -e "$root/reads/phage_2.fq" ]; then
    unpacked=$(mktemp -d "$root/unpack.XXXXXX")
    trap 'rm -rf "$unpacked"' EXIT
    python3 "$here/../../deploy/debian_image.py" unpack "$unpacked" bowtie2-examples
    examples=$unpacked/usr/share/doc/bowtie2/examples
    mkdir -p "$root/genome" "$root/reads"
    cp "$examples/reference/"* "$examples/index/"* "$root/genome"
    gzip -d -f "$root/genome/"*.gz
    for mate in 1 2; do   # the last of these two is the sign that all is there
        gzip -d -c "$examples/reads/reads_$mate.fq.gz" >"$root/reads/part"
        mv "$root/reads/part" "$root/reads/phage_$mate.fq"
    done
fi
# A container's root without capabilities is nobody special in folders of other users.
for folder in work result by-hand; do
    mkdir -p "$root/$folder"
    chmod 777 "$root/$folder"
done
