"""Exact solvers: a frame split into background and target by SVD and FFT, run to convergence."""
