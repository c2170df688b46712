"""Several processes for one command: what torchrun is asked, by us and by hand, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from harness.train.checkpoints import out_of_memory
from harness.train.launch import GRACE, torchrun_arguments
from tests import preloaded
from tests.paths import ROOT

RUN = ["--run", "math/llama-mini/lora/seed0", "--run-dir", "here"]


def test_torchrun_hands_all_options_of_the_command_on() -> None:
    asked = parse_args(torchrun_arguments("harness.train", RUN, processes=3))
    assert (asked.nproc_per_node, asked.standalone, asked.module, asked.shutdown_timeout) == ("3", True, True, GRACE)
    assert (asked.training_script, asked.training_script_args) == ("harness.train", RUN)


def test_by_hand_the_run_has_a_name_that_torchrun_does_not_take_for_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    by_hand = ["--nproc-per-node", "2", "-m", "harness.train", "--run-id", *RUN[1:]]
    assert parse_args(by_hand).training_script_args == ["--run-id", *RUN[1:]]


def launched(folder: Path, code: str, **options: int) -> subprocess.Popen[str]:
    """Two processes that run the code, each knowing its ``rank``."""
    (folder / "worker.py").write_text(f"import os, signal, sys, time\nrank = int(os.environ['RANK'])\n{code}")
    call = (
        "import os, pathlib, sys; os.environ['OMP_NUM_THREADS'] = '4'; from harness.train.launch import launch; "
        "sys.exit(launch('worker', ['--run', 'x'], processes=2, scratch=pathlib.Path()))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}
    return subprocess.Popen([preloaded.python(), "-c", call], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def test_the_processes_share_the_threads_and_the_first_failure_is_the_status(tmp_path: Path) -> None:
    code = (
        "os.write(1, f\"{os.environ['OMP_NUM_THREADS']} {sys.argv[1:]}\\n\".encode())\n"
        "if rank == 0:\n    open('said', 'w').close()\n    time.sleep(200)\n"
        "while not os.path.exists('said'):\n    time.sleep(0.01)\n"
        "sys.exit(3)"
    )
    process = launched(tmp_path, code)
    assert process.communicate()[0] == "2 ['--run', 'x']\n" * 2
    assert process.returncode == 3


#: What a process says whose memory does not suffice for 64 tokens, then not for 32.
NOTE = """
from pathlib import Path
from harness.train.checkpoints import note_out_of_memory, out_of_memory
times = len(out_of_memory(Path()))
if rank == 1 and times < 2:
    note_out_of_memory(Path(), {'step': 1, 'tokens': 64 >> times, 'micro_batch_tokens': 32 >> times})
"""


def test_all_start_again_as_often_as_one_of_them_notes_that_it_was_out_of_memory(tmp_path: Path) -> None:
    code = NOTE + (
        "    sys.exit(75)\n"
        "if rank == 1:\n    open('done', 'w').close()\n"
        "while not os.path.exists('done'):\n    time.sleep(0.01)\n"
        "os.write(1, f\"{os.environ['OMP_NUM_THREADS']}\\n\".encode())"
    )
    process = launched(tmp_path, code)
    assert process.communicate()[0] == "starting all processes again\n" * 2 + "2\n" * 2
    assert process.returncode == 0
    assert [entry["micro_batch_tokens"] for entry in out_of_memory(tmp_path)] == [32, 16]


def test_a_sigterm_reaches_both_and_is_waited_for(tmp_path: Path) -> None:
    """Also if one of them was out of memory: that is for the next start."""
    code = (
        NOTE + "def end(*_):\n    time.sleep(0.2)\n    os.write(1, b'saved\\n')\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\nos.write(1, b'ready\\n')\ntime.sleep(200)"
    )
    process = launched(tmp_path, code)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == "saved\n" * 2
    assert process.returncode == 143
