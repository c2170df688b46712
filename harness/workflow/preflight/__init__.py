"""Checks of everything that could stop an experiment halfway, before the first run trains."""
