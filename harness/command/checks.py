"""What ``beamlora doctor`` looks at, and for each fault the command that mends it."""

from __future__ import annotations

import errno
import getpass
import os
import platform
import shlex
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness import cli
from harness.files import nearest_existing
from harness.hub.network import reachable
from harness.source_files import ROOT

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

DISTRIBUTION = "beamlora-harness"
#: Shown also where nothing is wrong with them: their releases change numbers most.
SHOWN = ("torch", "transformers", "peft")
#: The adapters and checkpoints of ``tiny``, the default experiment, need 0.19 GiB by its preflight; bases, predictions and
#: caches come on top.
LEAST_FREE_GIB = 1.0
HUB = "https://huggingface.co"
HUB_S = 2.0
_YES = ("1", "ON", "YES", "TRUE")
#: Package manager -> what installs bubblewrap.
_INSTALLERS = {
    "apt-get": "sudo apt-get install bubblewrap",
    "dnf": "sudo dnf install bubblewrap",
    "zypper": "sudo zypper install bubblewrap",
    "pacman": "sudo pacman -S bubblewrap",
    "apk": "sudo apk add bubblewrap",
}
#: Kernel setting -> (the value that forbids unprivileged namespaces, one that allows them).
_NAMESPACE_SETTINGS = {
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "user.max_user_namespaces": ("0", "15000"),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at. ``note``: runs work, but less well than they could; ``fault``: no run, or not every one, works."""

    name: str
    status: Literal["ok", "note", "fault"]
    found: str
    #: The command that mends it.
    mend: str | None = None


# ------------------------------------------------------------------------------------------------ the project and Python


@dataclass(frozen=True, kw_only=True)
class Supported:
    """What the project runs on."""

    python: SpecifierSet
    requirements: tuple[Requirement, ...]


def supported() -> Supported:
    """The ranges of pyproject.toml; of an installed package without it, those of its metadata."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    file = ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        python, lines = project["requires-python"], project["dependencies"]
    else:
        python = metadata.metadata(DISTRIBUTION)["Requires-Python"]
        lines = metadata.requires(DISTRIBUTION) or []
    declared = [Requirement(line) for line in lines]
    needed = tuple(one for one in declared if one.marker is None or one.marker.evaluate({"extra": ""}))
    return Supported(python=SpecifierSet(python), requirements=needed)


def check_checkout() -> Finding:
    """The current folder is the project's."""
    folder = Path.cwd()
    if (folder / "Snakefile").is_file():
        return Finding(name="checkout", status="ok", found=str(folder))
    mend = f"cd {shlex.quote(str(ROOT))}" if (ROOT / "Snakefile").is_file() else "cd into a clone of beamlora-harness"
    return Finding(name="checkout", status="fault", found=f"{folder}: no Snakefile here", mend=mend)


def check_python(versions: SpecifierSet) -> Finding:
    """The interpreter that runs this."""
    release = platform.python_version()
    seen = f"{release} (supported: {versions}), {sys.executable}"
    if versions.contains(release, prereleases=True):
        return Finding(name="Python", status="ok", found=seen)
    return Finding(name="Python", status="fault", found=seen, mend="rm -r .venv && make setup")


def check_package(requirement: Requirement) -> Finding:
    """An installed package and its release."""
    name, wanted = requirement.name, requirement.specifier
    try:
        release = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name=name, status="fault", found=f"not installed (supported: {wanted})", mend=_install(requirement))
    seen = f"{release} (supported: {wanted})"
    if wanted.contains(release, prereleases=True):
        return Finding(name=name, status="ok", found=seen)
    return Finding(name=name, status="fault", found=seen, mend=_install(requirement))


def _install(requirement: Requirement, *options: str) -> str:
    pinned = ["--constraint", "constraints.txt"] if Path("constraints.txt").is_file() else []
    return shlex.join([sys.executable, "-m", "pip", "install", *options, *pinned, str(requirement)])


def check_packages(requirements: tuple[Requirement, ...]) -> list[Finding]:
    """Those that change numbers most, and every one that is wrong."""
    findings = [check_package(requirement) for requirement in requirements]
    return [one for one in findings if one.name in SHOWN or one.status != "ok"]


# ------------------------------------------------------------------------------------------------------------ processors


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads() -> Finding:
    """How many threads a run takes; every run of the workflow is one process, with one thread unless told otherwise."""
    wanted = os.environ.get("OMP_NUM_THREADS")
    seen = f"OMP_NUM_THREADS={wanted or 'unset, so one a run'}, {cores()} cores"
    if wanted is not None and not (wanted.isdigit() and int(wanted) > 0):
        return Finding(name="threads", status="fault", found=seen, mend="unset OMP_NUM_THREADS")
    if wanted is not None and int(wanted) > cores():
        return Finding(name="threads", status="note", found=seen, mend=f"export OMP_NUM_THREADS={cores()}")
    return Finding(name="threads", status="ok", found=seen)


def check_gpu() -> Finding:
    """The GPUs that torch sees."""
    try:
        import torch
    except (ImportError, OSError) as error:
        mend = shlex.join([sys.executable, "-m", "pip", "install", "--force-reinstall", "torch"])
        return Finding(name="GPU", status="fault", found=f"torch cannot be imported: {_line(error)}", mend=mend)
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices)
        return Finding(name="GPU", status="ok", found=f"{names}; CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi") is None:
        return Finding(name="GPU", status="ok", found="none: tiny, demo and small run on the CPU")
    if torch.version.cuda is None:
        mend = "rm -r .venv && make setup SETUP_ARGS='--torch cuda'"
        return Finding(name="GPU", status="note", found="an NVIDIA driver, but a build of torch without CUDA", mend=mend)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    mend = "nvidia-smi" if hidden is None else "unset CUDA_VISIBLE_DEVICES"
    why = f"torch with CUDA {torch.version.cuda} sees no GPU" + ("" if hidden is None else f"; CUDA_VISIBLE_DEVICES={hidden!r}")
    return Finding(name="GPU", status="note", found=f"an NVIDIA driver, but {why}", mend=mend)


# --------------------------------------------------------------------------------------------------------------- sandbox


def check_sandbox() -> Finding:
    """How programs that a model wrote are isolated. Found by trying."""
    from evaluation.sandbox import isolation, packages

    reasons: dict[str, str] = {}
    if packages.folder() is None:
        reasons["packages"] = "NumPy and others that programs may import are missing; run make setup again"
    for level in (isolation.BUBBLEWRAP, isolation.LANDLOCK):
        reason = isolation.self_test(level)
        if reason is None:
            seen = "; ".join([isolation.layers(level), *(f"no {name}: {why}" for name, why in reasons.items())])
            mend = _mend_bubblewrap() if isolation.BUBBLEWRAP in reasons else "make setup" if reasons else None
            return Finding(name="sandbox", status="note" if reasons else "ok", found=seen, mend=mend)
        reasons[level] = reason
    seen = "none, so tasks of code cannot be evaluated; " + "; ".join(f"no {name}: {why}" for name, why in reasons.items())
    return Finding(name="sandbox", status="fault", found=seen, mend=_mend_bubblewrap())


def _mend_bubblewrap() -> str:
    if sys.platform != "linux":
        return "run it on Linux: a container, a virtual machine, or WSL"
    if shutil.which("bwrap", path=os.defpath) is None:
        return next((line for tool, line in _INSTALLERS.items() if shutil.which(tool)), _INSTALLERS["apt-get"])
    for setting, (forbids, allows) in _NAMESPACE_SETTINGS.items():
        if _kernel_setting(setting) == forbids:
            return f"sudo sysctl -w {setting}={allows}"
    return "in a container: start it with docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"


def _kernel_setting(name: str) -> str | None:
    try:
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    except OSError:
        return None


# --------------------------------------------------------------------------------------------------------------- network


def check_hub() -> Finding:
    """Whether models and sets may and can be fetched. ``tiny`` and ``demo`` need none."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in _YES:
            return Finding(name="hub", status="ok", found=f"{name}={os.environ[name]}: from the cache and local folders only")
    url = os.environ.get("HF_ENDPOINT", HUB)
    if reachable(url, within_s=HUB_S):
        return Finding(name="hub", status="ok", found=f"{url} can be reached")
    seen = f"{url} cannot be reached within {HUB_S:g} s; tiny and demo do without"
    return Finding(name="hub", status="note", found=seen, mend="export HF_HUB_OFFLINE=1")


# ------------------------------------------------------------------------------------------------------------------ disk


def check_disk(results: Path) -> Finding:
    """Space for results."""
    free = shutil.disk_usage(nearest_existing(results)).free / 2**30
    seen = f"{free:.1f} GiB free for {results}/ (each experiment's own need is checked before its first run)"
    if free >= LEAST_FREE_GIB:
        return Finding(name="disk", status="ok", found=seen)
    return Finding(name="disk", status="fault", found=seen, mend=f"rm -r {cli.CACHE}; du -sh ~/.cache/huggingface {results}/*")


def check_results(results: Path) -> Finding:
    """Whether results can be written. Found by writing: permissions alone say nothing about a read-only file system."""
    folder = nearest_existing(results)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(
            name="results",
            status="fault",
            found=f"{folder}/ cannot be written: {_line(error)}",
            mend=_mend_writing(folder, error),
        )
    return Finding(name="results", status="ok", found=f"{results}/ can be written")


def _mend_writing(folder: Path, error: OSError) -> str:
    name = shlex.quote(str(folder))
    if not folder.is_dir():
        return f"mv {name} {name}.old"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"sudo chown -R {shlex.quote(getpass.getuser())} {name}"
    return f"cp -r {shlex.quote(str(Path.cwd()))} ~/ && cd ~/{shlex.quote(Path.cwd().name)}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def examine(results: Path = cli.RESULTS) -> list[Finding]:
    """Everything, in the order in which it is mended."""
    versions = supported()
    return [
        check_checkout(),
        check_python(versions.python),
        *check_packages(versions.requirements),
        check_threads(),
        check_gpu(),
        check_sandbox(),
        check_hub(),
        check_disk(results),
        check_results(results),
    ]
