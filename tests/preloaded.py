"""Python processes that start with the third-party packages imported, for tests that start many.

The program ``python()`` takes ``-m MODULE``, ``-c CODE`` or a script as an interpreter does. It hands its arguments,
environment, folder and open files to a server, which has imported ``PACKAGES`` once and forks a process for each call.
Nothing of this project is imported before the fork: it comes from the folder and the PYTHONPATH of the call. What a forked
process could not do as a new one does (options of the interpreter, variables that are read once when it or a package starts)
is given to a new one. Tests of what is imported, or of what a start costs, use ``sys.executable``.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from importlib import import_module
from pathlib import Path
from typing import NoReturn

#: What the workflow and its jobs import, 10 s of CPU in all.
PACKAGES = (
    "snakemake.cli",
    "snakemake.report",
    "smart_open",
    "torch",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "peft",
    "datasets",
    "pandas",
    "scipy.stats",
    "matplotlib.pyplot",
)
#: Variables that are read once, when the interpreter or a package starts.
READ_ONCE = (
    *("PYTHONHASHSEED", "PYTHONHOME", "PYTHONIOENCODING", "PYTHONOPTIMIZE", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "PYTHONUTF8"),
    *("PYTHONWARNINGS", "OMP_NUM_THREADS", "MPLBACKEND", "MPLCONFIGDIR"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"),
)
#: The folder of the socket and of the program ``python``, which child processes inherit.
FOLDER = "BEAMLORA_TESTS_PRELOADED"

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys

arguments = sys.argv[1:]
environment = dict(os.environ)
same = {read_once!r} == {{name: environment.get(name) for name in {read_once!r}}}
if arguments[:1] not in (["-m"], ["-c"]) and not os.path.isfile(arguments[0] if arguments else "") or not same:
    os.execv({python!r}, [{python!r}, *arguments])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([arguments, environment, os.getcwd()]).encode()
socket.send_fds(server, [len(call).to_bytes(4, "big")], [0, 1, 2])
server.sendall(call)
forked = int.from_bytes(server.recv(4), "big")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(forked, number))
status = os.waitstatus_to_exitcode(int.from_bytes(server.recv(4), "big"))
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the server, which imports nothing before the first call and ends with this process."""
    python = folder / "python"
    read_once = {name: os.environ.get(name) for name in READ_ONCE}
    python.write_text(CLIENT.format(python=sys.executable, read_once=read_once, address=str(folder / "socket")))
    python.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    os.environ[FOLDER] = str(folder)
    command = [sys.executable, __file__, str(listener.fileno()), str(python)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # In a session of its own: Ctrl-C reaches the clients, and the server ends their processes with them.
    with listener:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )


def python() -> str:
    """The program that takes the place of ``sys.executable``."""
    return f"{os.environ[FOLDER]}/python"


# ------------------------------------------------------------------------------------------------------------ the server


def _accept(listener: socket.socket) -> tuple[socket.socket, list[str], dict[str, str], str, list[int]]:
    client, _ = listener.accept()
    size, files, _, _ = socket.recv_fds(client, 4, 3)
    call = b""
    while len(call) < int.from_bytes(size, "big"):
        call += client.recv(1 << 20)
    arguments, environment, folder = json.loads(call)
    return client, arguments, environment, folder, files


def serve(listener: socket.socket) -> tuple[list[str], dict[str, str], str, list[int]]:
    """Fork for every call. Returns only in the forked processes: the arguments, environment, folder and files of the call."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, None)
    selector.register(0, selectors.EVENT_READ, None)
    while True:
        for key, _ in selector.select():
            if key.fd == 0:  # closed: the tests have ended
                sys.exit()
            elif key.fileobj is listener:
                for package in PACKAGES:
                    import_module(package)
                gc.freeze()  # else every collection in a forked process copies all of it
                client, arguments, environment, folder, files = _accept(listener)
                process = os.fork()
                if process == 0:
                    selector.close()
                    listener.close()
                    client.close()
                    return arguments, environment, folder, files
                for file in files:
                    os.close(file)
                client.sendall(process.to_bytes(4, "big"))
                ended = os.pidfd_open(process)
                selector.register(ended, selectors.EVENT_READ, (process, ended, client))
                selector.register(client, selectors.EVENT_READ, (process, ended, client))
            elif key.data is not None and key.fileobj in selector.get_map():
                process, ended, client = key.data
                if key.fileobj is client:
                    os.kill(process, signal.SIGKILL)  # as the client was
                    selector.unregister(client)
                    continue
                _, status = os.waitpid(process, 0)
                try:
                    client.sendall(status.to_bytes(4, "big"))
                except BrokenPipeError:
                    pass
                selector.unregister(ended)
                os.close(ended)
                if client in selector.get_map():
                    selector.unregister(client)
                client.close()


def run(arguments: list[str], environment: dict[str, str], folder: str, files: list[int], *, executable: str) -> None:
    """What an interpreter does with its arguments."""
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = executable
    sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if arguments[0] == "-m":
        sys.path[0], sys.argv = folder, arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.path[0], sys.argv = "", ["-c", *arguments[2:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.path[0], sys.argv = str(Path(arguments[0]).resolve().parent), arguments
        runpy.run_path(arguments[0], run_name="__main__")


def main() -> NoReturn:
    """The server's whole life, and that of every process it forks."""
    call = serve(socket.socket(fileno=int(sys.argv[1])))
    status: object = 0
    try:
        run(*call, executable=sys.argv[2])
    except SystemExit as error:
        status = error.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    # As an interpreter ends, but for freeing 500 MB of objects one by one, which takes 4 s.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    main()
