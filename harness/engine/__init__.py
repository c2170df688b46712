"""Engines of generation beside transformers, each a process in an environment of its own."""
