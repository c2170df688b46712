"""The report: one HTML page of an experiment that opens from disk, and the check that recomputes its numbers. No torch."""
