"""A run for others: a model card for the hub, the form of lm-eval."""
