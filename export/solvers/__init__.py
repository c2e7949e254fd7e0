"""Fixed-iteration twins of the exact solvers: plain matrix products that every TensorRT builds."""
