"""Tables of honest cells, and what they say in words. ``python -m harness.tables`` writes them."""
