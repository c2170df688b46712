"""A process that imports the third-party packages once and forks one of its own for each job: nobody pays for imports twice.

Its program ``python`` (``client``) takes ``-m MODULE``, ``-c CODE`` or a script as an interpreter does, so that the commands of
the rules stay what can be pasted into a shell. A forked process is a new one in all that a job can tell: arguments,
environment, folder, open files, signals, and no thread but its own; the parent imports, and computes nothing. Nothing of this
project is imported before the fork: a job runs the code that lies in its folder when it starts, as its record says. What a
forked process could not do as a new one does (options of the interpreter, variables that are read once when it or a package
starts) is left to a new one.

Linux, and never where a GPU is visible: what an import has told CUDA does not survive a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

#: What the jobs of a workflow import, 10 s of CPU in all.
PACKAGES = (
    "pydantic.json_schema",
    "torch",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mistral.modeling_mistral",
    "peft",
    "datasets",
    "pandas",
    "scipy.stats",
    "matplotlib.pyplot",
)
#: Variables that are read once, when the interpreter, the C library or a package starts.
READ_ONCE = (
    *("PYTHONHASHSEED", "PYTHONHOME", "PYTHONIOENCODING", "PYTHONOPTIMIZE", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "PYTHONUTF8"),
    *("PYTHONWARNINGS", "OMP_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "MPLBACKEND", "MPLCONFIGDIR"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"),
)
#: Arrow's allocator would start a thread of its own.
_ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}


class Call(NamedTuple):
    """What a client wants done."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    #: Standard input, output and error.
    files: list[int]


class Parent:
    """The parent process, which imports nothing before the first call and ends with this process."""

    def __init__(
        self,
        packages: Sequence[str],
        *,
        environment: Mapping[str, str],
        executable: str | None = None,
        log: IO[str] | None = None,
    ) -> None:
        """Start it.

        Args:
            environment: of the parent, as the packages find it when they are imported.
            executable: ``sys.executable`` in the forked processes; None: ``program``, so that theirs are forked too.
            log: where the parent's complaints go, if any.

        Raises:
            OSError: it could not be started.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="preloaded-", ignore_cleanup_errors=True)
        #: The path of the program that takes the place of ``sys.executable``.
        self.program = f"{self._folder.name}/python"
        client = [
            sys.executable,
            "-IS",
            str(Path(__file__).with_name("client.py")),
            f"{self._folder.name}/socket",
            sys.executable,
        ]
        Path(self.program).write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
        os.chmod(self.program, 0o755)
        # In a session of its own: Ctrl-C reaches the clients, which pass it on.
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._folder.name, executable or self.program, *packages],
            env={**environment, **_ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.close()
            raise OSError("the process that starts jobs did not start")

    def close(self) -> float:
        """End it, and the processes that it has forked. Returns the CPU time that it took by itself, in seconds."""
        spent, _ = self._process.communicate()
        self._folder.cleanup()
        return float(spent or 0)


# ------------------------------------------------------------------------------------------------------------ the parent


def _accept(listener: socket.socket) -> tuple[socket.socket, Call | None]:
    """The next client, and its call; None if it has ended by now."""
    client, _ = listener.accept()
    files: list[int] = []
    try:
        size, files, _, _ = socket.recv_fds(client, 4, 3)
        with client.makefile("rb") as stream:
            arguments, environment, folder = json.loads(stream.read(int.from_bytes(size, "big")))
    except (ValueError, ConnectionError):
        for file in files:
            os.close(file)
        return client, None
    return client, Call(arguments, environment, folder, files)


def _load(packages: Sequence[str]) -> None:
    """Import them, once."""
    for package in packages:
        import_module(package)
    gc.freeze()  # else every collection in a forked process copies all of it
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"found {threads} threads after the imports, expected 1: the others are missing after a fork")


class Forked(NamedTuple):
    """A running process, its pidfd, and the client that it runs for."""

    process: int
    ended: int
    client: socket.socket


class Server:
    """What the parent does all its life: fork, and see to it that a client and its process end together."""

    def __init__(self, listener: socket.socket, packages: Sequence[str]) -> None:
        self.listener = listener
        self.packages = packages
        self.started = {name: os.environ.get(name) for name in READ_ONCE}
        self.running: list[Forked] = []
        self.closing = False
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)

    def serve(self) -> Call | None:
        """Returns in each forked process, with its call; and None when standard input is closed, since whoever started the
        parent has ended, and no process is left."""
        while self.running or not self.closing:
            key, _ = self.selector.select()[0]  # one at a time: what is done may end the others
            if key.fd == 0:
                self.closing = True
                self.selector.unregister(0)
                self.selector.unregister(self.listener)
                for forked in self.running:
                    os.kill(forked.process, signal.SIGKILL)
            elif key.fileobj is not self.listener:
                self._end(key.data, client_ended=key.fileobj is key.data.client)
            elif (call := self._take()) is not None:
                return call
        return None

    def _take(self) -> Call | None:
        """Answer the next client. Returns in the forked process alone something."""
        if self.packages:
            _load(self.packages)
            self.packages = ()
        client, call = _accept(self.listener)
        with contextlib.suppress(ConnectionError):  # a client that has ended is found so below
            if call is not None and self._as_started(call):
                process = os.fork()
                if process == 0:
                    client.close()
                    self._forget()
                    return call
                forked = Forked(process, os.pidfd_open(process), client)
                self.running.append(forked)
                self.selector.register(forked.ended, selectors.EVENT_READ, forked)
                self.selector.register(client, selectors.EVENT_READ, forked)
                socket.send_fds(client, [b"y"], [forked.ended])
            elif call is not None:
                client.sendall(b"n")
                client.close()
        for file in call.files if call is not None else ():
            os.close(file)
        return None

    def _as_started(self, call: Call) -> bool:
        """Whether a new process would have read once what this one has."""
        return self.started == {name: call.environment.get(name) for name in READ_ONCE}

    def _forget(self) -> None:
        """Close what a forked process has of the parent's: a client must see when the parent is gone."""
        self.selector.close()
        self.listener.close()
        for forked in self.running:
            os.close(forked.ended)
            forked.client.close()

    def _end(self, forked: Forked, *, client_ended: bool) -> None:
        if client_ended:
            os.kill(forked.process, signal.SIGKILL)  # as the client was
            self.selector.unregister(forked.client)
            return
        _, status = os.waitpid(forked.process, 0)
        if self.closing and os.WIFSIGNALED(status):
            # As cli.end_with_workflow ends a process: of a client that ends by a signal a shell says "Killed".
            status = 143 << 8
        with contextlib.suppress(ConnectionError):
            forked.client.sendall(status.to_bytes(4, "big"))
        self.running.remove(forked)
        self.selector.unregister(forked.ended)
        os.close(forked.ended)
        if any(key.fileobj is forked.client for key in self.selector.get_map().values()):
            self.selector.unregister(forked.client)
        forked.client.close()


def run(call: Call, *, executable: str) -> None:
    """What an interpreter does with its arguments."""
    for target, file in enumerate(call.files):
        os.dup2(file, target)
        os.close(file)
    # Also where the parent ignores it: the client passes on what it hears itself.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(call.folder)
    os.environ.clear()
    os.environ.update(call.environment)
    sys.executable = executable
    arguments = call.arguments
    sys.path[:0] = ["", *filter(None, call.environment.get("PYTHONPATH", "").split(os.pathsep))]
    if arguments[0] == "-m":
        sys.path[0], sys.argv = call.folder, arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.path[0], sys.argv = str(Path(arguments[0]).resolve().parent), arguments
        runpy.run_path(arguments[0], run_name="__main__")


def end(work: Callable[[], None]) -> NoReturn:
    """Do a forked process's work, and end as an interpreter does but for freeing 500 MB of objects one by one: 4 s."""
    status: object = 0
    try:
        work()
    except SystemExit as error:
        status = error.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def main(folder: Path, executable: str, packages: Sequence[str]) -> None:
    """The parent's whole life, and that of every process it forks."""
    del sys.path[0]  # this file's folder
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        print("ready", flush=True)
        call = Server(listener, packages).serve()
    if call is not None:
        end(lambda: run(call, executable=executable))
    shutil.rmtree(folder, ignore_errors=True)  # whoever started this may have been killed
    print(time.process_time(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
