"""The program ``python`` of a ``preloaded.Parent``: has a process forked, and is to its caller what that process is.

``client.py ADDRESS PYTHON [ARGUMENT ...]``, with the arguments of an interpreter. Only the standard library's quickest modules:
it is started for every job.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from typing import NoReturn


def run(python: str, arguments: list[str]) -> NoReturn:
    """Become an ordinary interpreter."""
    os.execv(python, [python, *arguments])


def ask(parent: socket.socket, arguments: list[str]) -> int | None:
    """Have a process forked.

    Returns:
        Its file descriptor (of a pidfd); None if the parent leaves this call to an ordinary interpreter.

    Raises:
        OSError: the parent is gone.
    """
    call = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(parent, [len(call).to_bytes(4, "big")], [0, 1, 2])
    parent.sendall(call)
    answer, process, _, _ = socket.recv_fds(parent, 1, 1)
    if not answer:
        raise ConnectionResetError
    return process[0] if process else None


#: What would end this program, and is its process's to hear.
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def send(process: int, number: int) -> None:
    """A signal to a process, unless it has ended."""
    try:
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        pass


def pass_signals_on(process: int) -> None:
    """To a process: whatever would end this one and is not ignored here, as under nohup."""
    for number in PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: send(process, number))


def wait(parent: socket.socket) -> int:
    """How a process ended: its exit status, or a signal's number below zero.

    Raises:
        OSError: the parent is gone.
    """
    status = parent.recv(4)
    if not status:
        raise ConnectionResetError
    return os.waitstatus_to_exitcode(int.from_bytes(status, "big"))


def end(status: int) -> NoReturn:
    """As the process ended."""
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def main(address: str, python: str, arguments: list[str]) -> NoReturn:
    """The whole life of this program."""
    if arguments[:1] not in (["-m"], ["-c"]) and not os.path.isfile(arguments[0] if arguments else ""):
        run(python, arguments)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of this program
    process = None
    waiting = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # what comes while the process is forked is passed on as well
    try:
        parent = socket.socket(socket.AF_UNIX)
        parent.connect(address)
        process = ask(parent, arguments)
        if process is None:
            signal.pthread_sigmask(signal.SIG_SETMASK, waiting)
            run(python, arguments)
        pass_signals_on(process)
        signal.pthread_sigmask(signal.SIG_SETMASK, waiting)
        end(wait(parent))
    except OSError:
        if process is not None:
            send(process, signal.SIGKILL)
            select.select([process], [], [])
    signal.pthread_sigmask(signal.SIG_SETMASK, waiting)
    try:
        os.unlink(address)  # one of the jobs says it
        print("the process that starts jobs is gone: from now on each job starts, and imports, by itself", flush=True)
    except FileNotFoundError:
        pass
    run(python, arguments)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
