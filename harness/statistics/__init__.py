"""Means, intervals, tests and the seeds that a difference needs."""
