"""From experiment files to runs."""
