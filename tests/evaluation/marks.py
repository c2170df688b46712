"""Marks of tests that need what a machine may lack."""

from __future__ import annotations

import pytest

from evaluation.sandbox import packages

needs_packages = pytest.mark.skipif(packages.folder() is None, reason="make setup has not made the sandbox's own packages")
