"""What a target would run: work, parameters, settings. ``python -m harness.plan`` prints it."""
