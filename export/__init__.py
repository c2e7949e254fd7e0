"""From a trained network to a bundle: trace, rewrite, check, measure, write."""
