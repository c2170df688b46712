"""The examples of README.md, CONTRIBUTING.md, the package's README, docs/ and the page of results, as they are copied."""

from __future__ import annotations

import re
from pathlib import Path

from tests.paths import ROOT

#: Without docs/clusters.md, whose commands need Slurm (tools/slurm_check.sh runs them there), Docker or Kubernetes.
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "packages/beamlora/README.md", "results/evidence/README.md")]
PAGES += [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "clusters.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
#: Each page and a picture that it shows.
PICTURES = [
    (page, (page.parent / name).resolve())
    for page in PAGES
    for name in re.findall(r"^!\[[^]]+\]\(([^):]+)\)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
]


def draws(picture: Path) -> str:
    """The command that draws a picture of a page, which lies in ``results/{experiment}/figures``."""
    folder = picture.parent.relative_to(ROOT)
    return f"beamlora figure {picture.stem} --experiment {folder.parent.name} --output-dir {folder}"


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
