#!/bin/sh
# by_hand.sh ROOT SAMPLE: what one would type without a pipeline, on the unsplit reads.
# Leaves the result, and the reads of both results as text, in ROOT/by-hand.
set -eu
cd "$1"
mkdir -p by-hand
bowtie2 -x genome/lambda_virus -1 "reads/$2_1.fq" -2 "reads/$2_2.fq" -S "by-hand/$2.sam"
samtools sort -o "by-hand/$2.bam" "by-hand/$2.sam"
samtools index "by-hand/$2.bam"
samtools flagstat "by-hand/$2.bam" >"by-hand/$2.flagstat"
cp genome/lambda_virus.fa by-hand
bcftools mpileup -f by-hand/lambda_virus.fa -O u -o by-hand/pileup "by-hand/$2.bam"
bcftools call --ploidy 1 -m -v -O v -o "by-hand/$2.vcf" by-hand/pileup
samtools view -o by-hand/reads.txt "by-hand/$2.bam"
samtools view -o by-hand/reads-of-pipeline.txt "result/$2.bam"
