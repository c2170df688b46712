"""Where tests find the shared folder of real data and fixtures, which a user's machine does not have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _shared() -> Path | None:
    folder = Path(os.environ.get("BEAMLORA_SHARED", ROOT.parent / "shared"))
    return folder.resolve() if folder.is_dir() else None


#: The folder with real data sets and recorded fixtures, or None.
SHARED = _shared()
needs_shared = pytest.mark.skipif(SHARED is None, reason="no folder ../shared and BEAMLORA_SHARED is not set")
