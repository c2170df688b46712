"""Base models: found, checked and loaded; stand-ins trained from scratch."""
