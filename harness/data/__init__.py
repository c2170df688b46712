"""Records, tokens and batches; what training and test sets share. ``python -m harness.data check`` looks after them."""
