"""What an experiment reads from the hub, into the local cache before any run. ``python -m harness.fetch`` does it."""
