"""How a sparse layer multiplies: compiled kernels, Intel MKL, or the dense matrix."""
