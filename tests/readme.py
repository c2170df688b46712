"""The examples of README.md, CONTRIBUTING.md, the package's README and docs/, as a reader would copy them."""

from __future__ import annotations

import re

from tests.paths import ROOT

#: Without docs/clusters.md, whose commands need Slurm (tools/slurm_check.sh runs them there), Docker or Kubernetes.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "packages/beamlora/README.md"]
PAGES += [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "clusters.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
#: The options of the command that draws README's picture.
PICTURE = "--experiment evidence --output-dir docs/images"


def example(name: str) -> str:
    """The fenced block below the comment ``<!-- example: NAME -->``."""
    examples = re.findall(rf"^<!-- example: {re.escape(name)} -->\n```\w*\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert len(examples) == 1, f"{len(PAGES)} pages: found {len(examples)} examples named {name!r}, expected one"
    return examples[0]


def blocks(language: str) -> list[str]:
    """Every fenced block of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


def commands(language: str) -> list[str]:
    """The commands of all blocks of a language, each in one line, without comments: what follows a ``$`` where there is one."""
    lines: list[str] = []
    for block in blocks(language):
        own = block.replace("\\\n", " ").splitlines()
        lines += [line.removeprefix("$ ") for line in own if line.startswith("$ ")] or own
    return [command for line in lines if (command := re.sub(r" +# .*", "", line).strip())]
