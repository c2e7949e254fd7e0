"""Models of clips: baselines and exact reference solvers, none with weights."""
