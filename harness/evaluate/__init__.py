"""Asking, decoding and grading. ``python -m harness.evaluate`` evaluates a run."""
