"""The benchmark: every figure beside a baseline that was taken in the same run."""
