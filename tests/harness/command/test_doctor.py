"""What the doctor finds on a machine with one thing wrong, and the command that mends it."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from evaluation.sandbox import isolation
from harness.command import checks, doctor
from harness.command.checks import Finding
from tests.paths import ROOT


def torch_with(**cuda: Any) -> SimpleNamespace:
    """A torch of which only the GPU counts."""
    made = {"is_available": lambda: False, "device_count": lambda: 0} | cuda
    return SimpleNamespace(cuda=SimpleNamespace(**made), version=SimpleNamespace(cuda="12.8"))


# ------------------------------------------------------------------------------------------------------- the whole command


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """This checkout, whatever the machine's sandbox, network and disk."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(isolation, "self_test", lambda level: None)
    monkeypatch.setattr(checks, "reachable", lambda url, within_s: True)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=50 << 30))


def test_nothing_wrong(healthy: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("ready\n") and "fault" not in shown
    for name in ("Python", "torch", "transformers", "peft", "threads", "GPU", "sandbox", "hub", "disk", "results"):
        assert f"\nok     {name} " in shown or f"\nnote   {name} " in shown
    assert f"torch         {metadata.version('torch')} (supported: " in shown


def test_a_fault_is_exit_status_1_and_json_says_the_same(
    healthy: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "two")
    assert doctor.main([]) == 1
    shown = capsys.readouterr().out
    assert "fault  threads       OMP_NUM_THREADS=two" in shown and "mend: unset OMP_NUM_THREADS" in shown
    assert shown.endswith("1 fault: mend, and look again\n")
    assert doctor.main(["--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    threads = next(one for one in report["findings"] if one["name"] == "threads")
    assert not report["ready"] and threads["status"] == "fault" and threads["mend"] == "unset OMP_NUM_THREADS"


# ----------------------------------------------------------------------------------------------------------------- faults


def test_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finding = checks.check_checkout()
    assert (finding.status, finding.mend) == ("fault", f"cd {ROOT}")


def test_an_unsupported_python() -> None:
    finding = checks.check_python(SpecifierSet(">=3.99"))
    assert (finding.status, finding.mend) == ("fault", "rm -r .venv && make setup") and "supported: >=3.99" in finding.found
    assert checks.check_python(checks.supported().python).status == "ok"


@pytest.mark.parametrize(
    ("release", "status"), [("0.21.2", "ok"), ("0.21.9+local", "ok"), ("0.21.1", "fault"), ("0.22.0", "fault"), (None, "fault")]
)
def test_releases_of_a_package(release: str | None, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if release is None:
            raise metadata.PackageNotFoundError(name)
        return release

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(checks.metadata, "version", version)
    finding = checks.check_package(Requirement("peft>=0.21.2,<0.22"))
    assert finding.status == status and (release or "not installed") in finding.found
    if status == "fault":
        assert finding.mend == f"{sys.executable} -m pip install --constraint constraints.txt 'peft<0.22,>=0.21.2'"


def test_all_requirements_are_looked_at_and_few_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = checks.supported().requirements
    assert {"torch", "snakemake", "packaging"} <= {one.name for one in needed}
    assert [one.name for one in checks.check_packages(needed)] == ["peft", "torch", "transformers"]
    other = (*needed, Requirement("snakemake<1"))
    assert [one.name for one in checks.check_packages(other) if one.status == "fault"] == ["snakemake"]


def test_an_installed_package_without_a_checkout_knows_its_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.setattr(checks.metadata, "metadata", lambda _: {"Requires-Python": ">=3.11"})
    monkeypatch.setattr(checks.metadata, "requires", lambda _: ["torch>=2.11", 'trl>=1; extra == "test"'])
    supported = checks.supported()
    assert str(supported.python) == ">=3.11" and [one.name for one in supported.requirements] == ["torch"]


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(checks.cores() + 1))
    finding = checks.check_threads()
    assert (finding.status, finding.mend) == ("note", f"export OMP_NUM_THREADS={checks.cores()}")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert checks.check_threads().status == "ok"


def gpu(torch: Any, driver: bool, monkeypatch: pytest.MonkeyPatch) -> Finding:
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(checks.shutil, "which", lambda name: f"/usr/bin/{name}" if driver else None)
    return checks.check_gpu()


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimpleNamespace(name="NVIDIA A100", total_memory=80 << 30)
    seen = torch_with(is_available=lambda: True, device_count=lambda: 1, get_device_properties=lambda _: device)
    assert gpu(seen, True, monkeypatch).found == "NVIDIA A100 (80 GiB); CUDA 12.8"
    assert gpu(torch_with(), False, monkeypatch).status == "ok"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu(torch_with(), True, monkeypatch).mend == "nvidia-smi"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu(torch_with(), True, monkeypatch).mend == "unset CUDA_VISIBLE_DEVICES"
    without = torch_with()
    without.version.cuda = None
    finding = gpu(without, True, monkeypatch)
    assert (finding.status, finding.mend) == ("note", "rm -r .venv && make setup SETUP_ARGS='--torch cuda'")


def test_a_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = gpu(None, False, monkeypatch)
    assert finding.status == "fault" and finding.mend == f"{sys.executable} -m pip install --force-reinstall torch"


# ---------------------------------------------------------------------------------------------------------------- sandbox


def tools(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(checks.shutil, "which", lambda name, path=None: f"/usr/bin/{name}" if name in names else None)


@pytest.mark.parametrize(
    ("manager", "mend"), [("apt-get", "sudo apt-get install bubblewrap"), ("dnf", "sudo dnf install bubblewrap")]
)
def test_no_bubblewrap_on_the_path(manager: str, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real: the sandbox itself looks for bwrap on the system's path, and finds the next level or none."""
    monkeypatch.setattr(os, "defpath", "/nowhere")
    tools(monkeypatch, manager)
    finding = checks.check_sandbox()
    assert "no bubblewrap: bwrap is not installed" in finding.found and finding.mend == mend
    assert finding.status == ("note" if finding.found.startswith("landlock+") else "fault")


def test_no_isolation_at_all_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "self_test", lambda level: f"{level} is broken")
    tools(monkeypatch, "apt-get")
    finding = checks.check_sandbox()
    assert finding.status == "fault" and finding.mend == "sudo apt-get install bubblewrap"
    assert "no bubblewrap: bubblewrap is broken; no landlock: landlock is broken" in finding.found


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        (
            {"kernel.apparmor_restrict_unprivileged_userns": "1"},
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ({"user.max_user_namespaces": "0"}, "sudo sysctl -w user.max_user_namespaces=15000"),
        ({"user.max_user_namespaces": "62000"}, "in a container: start it with docker run --security-opt seccomp=unconfined"),
    ],
)
def test_a_bubblewrap_that_may_not_make_namespaces(
    settings: dict[str, str], mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "self_test", lambda level: "No permissions" if level == isolation.BUBBLEWRAP else None)
    monkeypatch.setattr(checks, "_kernel_setting", settings.get)
    tools(monkeypatch, "bwrap")
    finding = checks.check_sandbox()
    assert finding.status == "note" and finding.mend is not None and finding.mend.startswith(mend)


# ---------------------------------------------------------------------------------------------------------------- network


def test_offline_is_no_fault_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(checks, "reachable", None)
    finding = checks.check_hub()
    assert finding.status == "ok" and "HF_HUB_OFFLINE=1" in finding.found


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the look-up of its name, which knows no time-out."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    given_up = threading.Event()

    def hang(*_: Any, **__: Any) -> socket.socket:
        given_up.wait(60)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.monotonic()
    finding = checks.check_hub()
    given_up.set()
    assert time.monotonic() - start < 5
    assert (finding.status, finding.mend) == ("note", "export HF_HUB_OFFLINE=1")


# ------------------------------------------------------------------------------------------------------------------- disk


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=900 << 20))
    finding = checks.check_disk(tmp_path / "results")
    assert (
        finding.status == "fault"
        and finding.found.startswith("0.9 GiB free")
        and str(finding.mend).startswith("rm -r results/.cache")
    )


def test_results_that_can_be_written_are_left_as_they_were(tmp_path: Path) -> None:
    assert checks.check_results(tmp_path / "results").status == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_results_on_a_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc takes no file, from root neither."""
    monkeypatch.chdir(tmp_path)
    Path("results").symlink_to("/proc/self")
    finding = checks.check_results(Path("results"))
    assert finding.status == "fault" and finding.found.startswith("results/ cannot be written") and finding.mend is not None


@pytest.mark.parametrize(
    ("number", "mend"),
    [(errno.EACCES, "sudo chown -R somebody results"), (errno.EROFS, "cp -r {cwd} ~/ && cd ~/{name}")],
)
def test_the_mend_follows_from_what_forbids_writing(
    number: int, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    monkeypatch.setattr(checks.getpass, "getuser", lambda: "somebody")
    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    finding = checks.check_results(Path("results"))
    assert (finding.status, finding.mend) == ("fault", mend.format(cwd=tmp_path, name=tmp_path.name))


def test_results_that_are_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").touch()
    finding = checks.check_results(Path("results"))
    assert (finding.status, finding.mend) == ("fault", "mv results results.old")
