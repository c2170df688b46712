"""The examples of README.md, CONTRIBUTING.md, the package's README and docs/, as a reader would copy them."""

from __future__ import annotations

import re

from tests.paths import ROOT

#: Without docs/clusters.md, whose commands need Slurm (tools/slurm_check.sh runs them there), Docker or Kubernetes.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "packages/beamlora/README.md"]
PAGES += [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "clusters.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def example(name: str) -> str:
    """The fenced block below the comment ``<!-- example: NAME -->``."""
    examples = re.findall(rf"^<!-- example: {re.escape(name)} -->\n```\w*\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert len(examples) == 1, f"{len(PAGES)} pages: found {len(examples)} examples named {name!r}, expected one"
    return examples[0]


def blocks(language: str) -> list[str]:
    """Every fenced block of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
