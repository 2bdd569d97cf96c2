"""Comparisons around a run: assess before it, study and the experiment's arms after it."""
