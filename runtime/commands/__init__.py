"""The commands that fly: detect, evaluate, profile."""
