"""Where a number comes from: versions, commit, hardware, hashes."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: Packages whose release can change a number.
PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "datasets", "numpy")


def versions() -> dict[str, str]:
    """Installed releases of the packages that can change a number, and Python's."""
    releases = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            releases[package] = version(package)
        except PackageNotFoundError:
            continue
    return releases


def git_state(folder: Path) -> dict[str, Any]:
    """Commit, and whether tracked files differ from it, those in ``results/`` left out: runs write them. Both None outside a
    checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def hardware() -> dict[str, Any]:
    """CPU, cores this process may use, memory in bytes, and the accelerators torch sees."""
    import torch

    model = next((line.split(":", 1)[1].strip() for line in _proc("/proc/cpuinfo") if line.startswith("model name")), None)
    total = next((int(line.split()[1]) * 1024 for line in _proc("/proc/meminfo") if line.startswith("MemTotal")), None)
    return {
        "platform": platform.platform(),
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_bytes": total,
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _proc(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


@functools.lru_cache(maxsize=64)
def _hash_file(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, computed once per process for an unchanged file."""
    stat = path.stat()
    return _hash_file(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def folder_sha256(folder: Path, pattern: str) -> str:
    """One SHA-256 over the names and contents of the files in ``folder`` that match ``pattern``.

    Raises:
        FileNotFoundError: no file matches.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{folder}: found no {pattern}")
    lines = [f"{file.name} {file_sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
