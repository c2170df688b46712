"""Python processes that start with the third-party packages imported, for tests that start many: the program of
``harness.workflow.preloaded``, of which each test session has one.

Tests of what is imported, or of what a start costs, use ``sys.executable``.
"""

from __future__ import annotations

import os

from harness.workflow import preloaded

#: What the workflow itself imports.
PACKAGES = ("snakemake.cli", "snakemake.report", "smart_open", *preloaded.PACKAGES)
#: The program ``python``, in the environment of every process of the session.
PROGRAM = "BEAMLORA_TESTS_PYTHON"


def start() -> preloaded.Parent:
    """Start the parent of the session's processes."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    parent = preloaded.Parent(PACKAGES, environment=environment)
    os.environ[PROGRAM] = parent.program
    return parent


def python() -> str:
    """The program that takes the place of ``sys.executable``."""
    return os.environ[PROGRAM]
