#!/bin/sh
# call.sh SAMPLE HEADERS: call the sample's variants.
set -eu
cd "$CLUSTER_DATA_ROOT"
part=$(mktemp "result/$1.XXXXXX")
chmod 644 "$part"
cp genome/lambda_virus.fa "$WORK_DIR"   # bcftools puts its index beside the genome
bcftools mpileup -f "$WORK_DIR/lambda_virus.fa" -O u -o "$WORK_DIR/pileup" "result/$1.bam"
bcftools call --ploidy 1 -m -v -O v -o "$part" "$WORK_DIR/pileup"
mv "$part" "result/$1.vcf"
echo "result/$1.vcf" >"$WORK_DIR/sink-tasks.txt"
