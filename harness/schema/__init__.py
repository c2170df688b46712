"""The schema of an experiment and of a run. All models are frozen and refuse unknown keys. No torch and no method."""
