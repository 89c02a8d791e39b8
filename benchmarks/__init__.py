"""Measurements: the kernels and attacks against PyTorch and other packages, on a CPU or a GPU."""
