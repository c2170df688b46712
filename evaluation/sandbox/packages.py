"""What programs may import beside the standard library: an environment of their own, made by ``make setup``.

A program that EvalPlus runs finds what evalplus 0.3.1 requires (its METADATA; pandas and regex come with its ``datasets`` and
``transformers``). Left out is what cannot work in the sandbox: what speaks to a network or to services (openai, anthropic,
google-generativeai, wget, requests), models and data files (transformers, datasets, tree-sitter), what needs ``/proc`` or
the interpreter's own C interface (psutil, dill). Standard library only, for ``tools/bootstrap.py`` reads this file.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

#: Everything that is installed; where the harness's own environment has a package, its pin (constraints.txt).
PINS = (
    "appdirs==1.4.4",
    "markdown-it-py==4.3.0",
    "mdurl==0.1.2",
    "multipledispatch==1.0.0",
    "numpy==2.4.6",
    "pandas==3.1.1",
    "Pygments==2.21.0",
    "python-dateutil==4.0.0",
    "PyYAML==6.0.3",
    "regex==2026.11.15",
    "rich==15.0.0",
    "termcolor==3.3.0",
    "tqdm==4.70.1",
    "tzdata==2026.6",
)


def folder_in(environment: Path) -> Path:
    """Where the packages lie for the harness that is installed in a virtual environment."""
    return environment / "sandbox"


@cache
def folder() -> str | None:
    """The folder with all of ``PINS``; None where one is missing: programs then find the standard library only."""
    place = folder_in(Path(sys.prefix)).resolve()
    installed = {path.stem.lower() for path in place.glob("*.dist-info")}
    return str(place) if all(_installed_name(pin) in installed for pin in PINS) else None


def _installed_name(pin: str) -> str:
    return pin.lower().replace("==", "\n").replace("-", "_").replace("\n", "-")
