"""The examples of README.md and CONTRIBUTING.md, as a reader would copy them."""

from __future__ import annotations

import re

from tests.paths import ROOT

TEXT = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "CONTRIBUTING.md"))


def example(name: str) -> str:
    """The fenced block below the comment ``<!-- example: NAME -->``."""
    examples = re.findall(rf"^<!-- example: {re.escape(name)} -->\n```\w*\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert len(examples) == 1, f"README.md and CONTRIBUTING.md: found {len(examples)} examples named {name!r}, expected one"
    return examples[0]


def blocks(language: str) -> list[str]:
    """Every fenced block of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
