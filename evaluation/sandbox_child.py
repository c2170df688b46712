"""The untrusted side of the sandbox: defines a program's functions and calls them on request.

Runs as ``python -I -S -c <this text>`` in a confined process of its own, so it uses the standard library only and
imports nothing of this project. It is sent a program and calls with plain arguments, and replies with plain data. It
never sees a test or an expected value, and everything it replies is checked outside, so nothing here needs to be
tamper-proof.
"""

import marshal
import posix
import sys
from _json import encode_basestring_ascii

MAX_ITEMS = 200_000
MAX_INTEGER_BITS = 1 << 20
PLAIN_TYPES = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)


def to_json(value):
    """JSON text of a tree of None, bool, str, int, list and dict. The json module itself would double the start-up time."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, dict):
        return "{" + ",".join([to_json(key) + ":" + to_json(item) for key, item in value.items()]) + "}"
    return "[" + ",".join([to_json(item) for item in value]) + "]"


class Channel:
    """Length-prefixed messages on a socket's file descriptor: marshal from the trusted side, JSON to it."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def _read(self, size):
        data = b""
        while len(data) < size:
            chunk = posix.read(self.descriptor, min(size - len(data), 1 << 20))
            if not chunk:
                posix._exit(0)
            data += chunk
        return data

    def receive(self):
        return marshal.loads(self._read(int.from_bytes(self._read(4), "big")))

    def send(self, message):
        data = to_json(message).encode()
        data = memoryview(len(data).to_bytes(4, "big") + data)
        while data:
            data = data[posix.write(self.descriptor, data) :]


class Codec:
    """Plain values as tagged JSON; anything else as a handle that only this process can resolve.

    Subclasses (named tuples, counters) are sent as the built-in type they extend, read through that type's own
    methods, so that overridden ones have no say.
    """

    def __init__(self):
        self.objects = []
        self.items = 0

    def encode(self, value):
        if value is None or value is True or value is False:
            return value
        if isinstance(value, int):
            if int.bit_length(value) > MAX_INTEGER_BITS:
                raise ValueError("integer too large")
            return ["int", int.__format__(value, "x")]
        if isinstance(value, float):
            return ["float", float.hex(value)]
        if isinstance(value, complex):
            return ["complex", float.hex(complex(value).real), float.hex(complex(value).imag)]
        if isinstance(value, str):
            return ["str", str.__str__(value)]
        if isinstance(value, (bytes, bytearray)):
            return ["bytes", bytes(value).hex()]
        if type(value) is type and any(value is plain for plain in PLAIN_TYPES):
            return ["type", value.__name__]
        return self._encode_container(value)

    def _encode_container(self, value):
        for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
            if isinstance(value, kind):
                return [name, self._encode_all(kind.__iter__(value))]
        if isinstance(value, dict):
            return ["dict", [[self.encode(k), self.encode(v)] for k, v in dict.items(value)]]
        if type(value) is range:
            return ["range", *(self.encode(part) for part in (value.start, value.stop, value.step))]
        if type(value).__module__ in ("builtins", "itertools", "collections") and hasattr(type(value), "__iter__"):
            name = type(value).__name__
            return ["deque" if name == "deque" else "iterator", self._encode_all(iter(value))]
        self.objects.append(value)
        return ["object", len(self.objects) - 1]

    def _encode_all(self, values):
        encoded = []
        for value in values:
            self.items += 1
            if self.items > MAX_ITEMS:
                raise ValueError("too many items")
            encoded.append(self.encode(value))
        return encoded

    def decode(self, value):
        if not isinstance(value, list):
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
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
    if tag == "type":
        return {plain.__name__: plain for plain in PLAIN_TYPES}[parts[0]]
    return {"int": lambda text: int(text, 16), "float": float.fromhex, "str": str, "bytes": bytes.fromhex}[tag](parts[0])


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
    """Report the first forbidden operation and end the process. Paths below ``readable`` may be read, paths in the
    working folder read and written."""
    folder = posix.getcwd() + "/"
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
        if event == "open":
            if allowed(arguments[0], arguments[2] or 0):
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
    keywords = {name: codec.decode(value) for name, value in request["kwargs"].items()}
    return namespace[request["name"]](*map(codec.decode, request["args"]), **keywords)


def main():
    channel = Channel(int(sys.argv[1]))
    readable = tuple(sys.argv[2:])
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
        request = channel.receive()
        reply = {"token": request["token"]}
        try:
            codec.items = 0
            reply["value"] = codec.encode(answer(request, namespace, codec))
        except BaseException as error:
            reply["error"] = describe(error)


if __name__ == "__main__":
    main()
