"""Products of sparse layers: compiled kernels, Intel MKL, or the dense matrix."""
