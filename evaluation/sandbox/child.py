"""The untrusted side of the sandbox: defines a program's functions and calls them on request.

Runs as ``python -P -s -S -c BOOT`` in an isolated process of its own, is sent this file's code, then a program and calls
with plain arguments, and replies with plain data. It uses the standard library only, never sees a test or an expected
value, and everything it replies is checked outside, so nothing here needs to be tamper-proof.
"""

import marshal
import posix
import sys
from _json import encode_basestring, make_encoder

#: Bounds on a reply: its items, and those of an iterator, which may be endless.
MAX_ITEMS = 8_000_000
MAX_ITERATOR_ITEMS = 200_000
MAX_INTEGER_BITS = 1 << 24
PLAIN_TYPES = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
#: Files that a program may open for writing.
MAX_WRITES = 1000

#: What the interpreter is started with: the descriptor of the channel is its first argument.
BOOT = """
import marshal, posix, sys
def read(size, data=b""):
    while len(data) < size:
        data += posix.read(int(sys.argv[1]), size - len(data)) or posix._exit(0)
    return data
exec(marshal.loads(read(int.from_bytes(read(4), "big"))), {"__name__": "__main__"})
"""


class Channel:
    """Length-prefixed messages on a socket's file descriptor: marshal from the trusted side, JSON to it."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        # The json module itself would double the start-up time.
        self.to_json = make_encoder(None, None, encode_basestring, None, ":", ",", False, False, True)

    def _read(self, size):
        data = bytearray()
        while len(data) < size:
            chunk = posix.read(self.descriptor, min(size - len(data), 1 << 20))
            if not chunk:
                posix._exit(0)
            data += chunk
        return data

    def receive(self):
        return marshal.loads(self._read(int.from_bytes(self._read(4), "big")))

    def send(self, message):
        data = "".join(self.to_json(message, 0)).encode("utf-8", "surrogatepass")
        self._write(len(data).to_bytes(4, "big"))
        self._write(data)

    def _write(self, data):
        data = memoryview(data)
        while data:
            data = data[posix.write(self.descriptor, data) :]


class Codec:
    """Plain values as JSON; anything else as a handle that only this process can resolve.

    None, bool, int of 64 bits, float and str stand for themselves, everything else is a list that begins with a tag.
    Subclasses (named tuples, counters) are sent as the built-in type they extend, read through that type's own methods, so
    that overridden ones have no say.
    """

    def __init__(self):
        self.objects = []
        self.items = 0

    def encode(self, value):
        kind = type(value)
        if value is None or kind is bool or kind is float or kind is str:
            return value
        if isinstance(value, int):
            if -(1 << 63) <= int.__int__(value) < 1 << 63:
                return int.__int__(value)
            if int.bit_length(value) > MAX_INTEGER_BITS:
                raise ValueError("integer too large")
            return ["int", int.__format__(value, "x")]
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, complex):
            return ["complex", complex.__complex__(value).real, complex.__complex__(value).imag]
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, (bytes, bytearray)):
            name = "bytes" if isinstance(value, bytes) else "bytearray"
            return [name, memoryview(value).hex()]
        if kind is type and any(value is plain for plain in PLAIN_TYPES):
            return ["type", value.__name__]
        return self._encode_container(value)

    def _encode_container(self, value):
        for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
            if isinstance(value, kind):
                return [name, self._encode_all(kind.__iter__(value))]
        if isinstance(value, dict):
            return ["dict", [[self.encode(k), self.encode(v)] for k, v in self._counted(dict.items(value))]]
        if type(value) is range:
            return ["range", *(self.encode(part) for part in (value.start, value.stop, value.step))]
        if type(value).__module__ in ("builtins", "itertools", "collections") and hasattr(type(value), "__iter__"):
            name = type(value).__name__
            items = self._counted(iter(value), limit=MAX_ITERATOR_ITEMS)
            return ["deque" if name == "deque" else "iterator", [self.encode(item) for item in items]]
        self.objects.append(value)
        return ["object", len(self.objects) - 1]

    def _encode_all(self, values):
        return [self.encode(value) for value in self._counted(values)]

    def _counted(self, values, limit=MAX_ITEMS):
        for value in values:
            self.items += 1
            if self.items > limit:
                raise ValueError("too many items")
            yield value

    def decode(self, value):
        if type(value) is not list:
            return value
        tag, *parts = value
        if tag == "object":
            return self.objects[parts[0]]
        return decode_plain(tag, parts, self.decode)


def decode_plain(tag, parts, decode):
    """The value behind a tag. Raises KeyError on an unknown tag."""
    if tag in ("list", "tuple", "set", "frozenset", "iterator", "deque"):
        items = [decode(part) for part in parts[0]]
        if tag == "deque":
            from collections import deque

            return deque(items)
        return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "iterator": iter}[tag](items)
    if tag == "dict":
        return {decode(k): decode(v) for k, v in parts[0]}
    if tag == "range":
        return range(*(decode(part) for part in parts))
    if tag == "complex":
        return complex(float(parts[0]), float(parts[1]))
    if tag == "type":
        return {plain.__name__: plain for plain in PLAIN_TYPES}[parts[0]]
    return {"int": lambda text: int(text, 16), "bytes": bytes.fromhex, "bytearray": bytearray.fromhex}[tag](parts[0])


#: Prefixes of audited events that no solution of a programming task needs. The kernel's limits hold without this
#: list; it names the attempt early and clearly.
FORBIDDEN_EVENTS = (
    "os.exec",
    "os.fork",
    "os.kill",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.chdir",
    "os.setxattr",
    "os.utime",
    "shutil.",
    "subprocess.",
    "pty.",
    "socket.",
    "ctypes.",
    "mmap.",
    "fcntl.",
    "resource.",
    "signal.pthread_kill",
    "gc.",
    "sqlite3.",
)


def forbid(channel, readable):
    """Report the first forbidden operation and end the process. Paths below ``readable`` may be read, files in the
    working folder read, written and removed."""
    folder = posix.getcwd() + "/"
    writes = 0
    writing = posix.O_WRONLY | posix.O_RDWR | posix.O_CREAT | posix.O_TRUNC | posix.O_APPEND

    def allowed(path, flags):
        if isinstance(path, int):
            return True
        text = posix.fspath(path)
        text = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
        text = text if text.startswith("/") else folder + text
        if "/../" in text + "/":  # byte for byte: such a path never counts as inside
            return False
        if text in ("/dev/null", "/dev/urandom") or (text + "/").startswith(folder):
            return True
        return not flags & writing and text.startswith(readable)

    def hook(event, arguments):
        nonlocal writes
        if event == "open":
            writes += bool((arguments[2] or 0) & writing)
            if allowed(arguments[0], arguments[2] or 0) and writes <= MAX_WRITES:
                return
        elif event == "os.remove":
            if allowed(arguments[0], posix.O_WRONLY):
                return
        elif event in ("os.listdir", "os.scandir"):
            if allowed("." if arguments[0] is None else arguments[0], 0):
                return
        elif not event.startswith(FORBIDDEN_EVENTS):
            return
        channel.send({"forbidden": event})
        posix._exit(1)

    sys.addaudithook(hook)


def describe(error):
    """The class name of an exception, never its text or methods."""
    for kind in (MemoryError, RecursionError):
        if isinstance(error, kind):
            return kind.__name__
    return type.__getattribute__(type(error), "__name__")


def answer(request, namespace, codec):
    """The value of a global, of an attribute, or of a call."""
    if "fetch" in request:
        return namespace[request["fetch"]]
    if "attribute" in request:
        target = codec.decode(request["of"])
        for value in request["set"]:
            return setattr(target, request["attribute"], codec.decode(value))
        return getattr(target, request["attribute"])
    if "plain" in request:
        return namespace[request["name"]](*request["plain"])
    keywords = {name: codec.decode(value) for name, value in request["kwargs"].items()}
    return namespace[request["name"]](*map(codec.decode, request["args"]), **keywords)


def limit_tasks(count):
    """Threads and processes of this user, in this user namespace."""
    from resource import RLIMIT_NPROC, getrlimit, setrlimit

    hard = getrlimit(RLIMIT_NPROC)[1]
    if hard < 0 or count < hard:
        setrlimit(RLIMIT_NPROC, (count, count))


def main():
    channel = Channel(int(sys.argv[1]))
    if sys.argv[2] != "any":
        limit_tasks(int(sys.argv[2]))
    readable = tuple(sys.argv[3:])
    codec = Codec()
    namespace = {"__name__": "solution"}
    channel.send({"ready": True})
    program = channel.receive()
    forbid(channel, readable)
    reply = {"token": program["token"]}
    try:
        sys.setrecursionlimit(5000)
        exec(compile(program["source"], "solution.py", "exec"), namespace)
    except BaseException as error:
        reply["error"] = describe(error)
    while True:
        try:
            channel.send(reply)
        except (ValueError, MemoryError, RecursionError):
            channel.send({"token": reply["token"], "error": "ValueError"})
        reply = None
        request = channel.receive()
        reply = {"token": request["token"]}
        try:
            codec.items = 0
            reply["value"] = codec.encode(answer(request, namespace, codec))
        except BaseException as error:
            reply["error"] = describe(error)


if __name__ == "__main__":
    main()
