"""What axe-core finds in a page."""

from __future__ import annotations

from typing import Any

import pytest


def faults(page: Any, part: str | None = None) -> list[str]:
    """Every violation of any of axe-core's rules, with the elements that it concerns; none where all is well.

    Args:
        part: a selector of what is looked at; None: the whole page.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe (pip install -e '.[test]')")
    found = axe.Axe().run(page, context=part).response["violations"]
    return [f"{fault['id']}: {[node['target'] for node in fault['nodes']]}" for fault in found]
