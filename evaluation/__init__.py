"""Prompts, extraction, grading and sandboxed execution: what turns a completion into a verdict."""
