"""The untrusted side of the sandbox: defines a program's functions and calls them on request.

Runs as ``python -P -s -S -c BOOT`` in an isolated process of its own, is sent this file's code, then a program and calls
with plain arguments, and replies with plain data. It uses the standard library only, never sees a test or an expected
value, and everything it replies is checked outside, so nothing here needs to be tamper-proof. ``Codec`` and ``decode_plain``
serve both sides.
"""

import marshal
import posix
import sys
from _json import encode_basestring, make_encoder

#: Bounds on a reply: its items (a reference of EvalPlus's returns 1,000,005), those of an iterator, which may be endless, and
#: the items of one set or dict that hash like others (a set of n items of equal hash takes n * n steps to build).
MAX_ITEMS = 1_500_000
MAX_ITERATOR_ITEMS = 200_000
MAX_INTEGER_BITS = 1 << 24
MAX_EQUAL_HASHES = 2000
PLAIN_TYPES = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
#: Files that a program may open for writing, and folders that it may make.
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

    None, bool, int of 64 bits, float and str stand for themselves, everything else is a list that begins with a tag. A value
    of a class that extends a built-in one, and a NumPy scalar, is sent as that built-in value with the tag ``other``, read
    through the built-in type's own methods, so that overridden ones have no say.
    """

    def __init__(self):
        self.objects = []
        self.items = 0

    def encode(self, value):
        kind = type(value)
        if value is None or kind is bool or kind is float or kind is str:
            return value
        encode = ENCODERS.get(kind)
        if encode is not None:
            return encode(self, value)
        for base in ENCODERS:
            if isinstance(value, base):
                return ["other", ENCODERS[base](self, value)]
        return self._encode_foreign(value)

    def _encode_foreign(self, value):
        """Values that equal built-in ones but extend none; else an iterator's items, or a handle."""
        for module, name in (("decimal", "Decimal"), ("fractions", "Fraction"), ("numpy", "generic"), ("numpy", "ndarray")):
            kind = getattr(sys.modules.get(module), name, None)
            if kind is None or not isinstance(value, kind):
                continue
            if name == "Decimal":
                return [name, kind.__str__(value)]
            if name == "Fraction":
                return [name, self.encode(kind.numerator.fget(value)), self.encode(kind.denominator.fget(value))]
            if name == "ndarray":
                return ["array", self.encode(kind.tolist(value))]
            plain = kind.item(value)
            if type(plain) in (bool, *ENCODERS):
                return ["other", self.encode(plain)]
        kind = type(value)
        if kind.__module__ == "collections" and kind.__name__ in ("UserList", "UserDict", "UserString"):
            return [kind.__name__, self.encode(value.data)]
        if kind.__module__ in ("builtins", "itertools", "collections") and hasattr(kind, "__iter__"):
            name = kind.__name__ if kind.__name__ in ("deque", "dict_keys", "dict_items") else "iterator"
            return [name, [self.encode(item) for item in self._counted(iter(value), limit=MAX_ITERATOR_ITEMS)]]
        if any(value is plain for plain in PLAIN_TYPES):
            return ["type", value.__name__]
        self.objects.append(value)
        return ["object", len(self.objects) - 1]

    def encode_int(self, value):
        value = int.__int__(value)
        if -(1 << 63) <= value < 1 << 63:
            return value
        if value.bit_length() > MAX_INTEGER_BITS:
            raise ValueError("integer too large")
        return ["int", int.__format__(value, "x")]

    def encode_all(self, values):
        return [self.encode(value) for value in self._counted(values)]

    def encode_pairs(self, pairs):
        return [[self.encode(key), self.encode(value)] for key, value in self._counted(pairs)]

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


#: Each of the built-in types that a program may extend, and how its values are sent; and two that it may not.
ENCODERS = {
    int: Codec.encode_int,
    float: lambda codec, value: float.__float__(value),
    complex: lambda codec, value: ["complex", complex.__complex__(value).real, complex.__complex__(value).imag],
    str: lambda codec, value: str.__str__(value),
    bytes: lambda codec, value: ["bytes", memoryview(value).hex()],
    bytearray: lambda codec, value: ["bytearray", memoryview(value).hex()],
    list: lambda codec, value: ["list", codec.encode_all(list.__iter__(value))],
    tuple: lambda codec, value: ["tuple", codec.encode_all(tuple.__iter__(value))],
    set: lambda codec, value: ["set", codec.encode_all(set.__iter__(value))],
    frozenset: lambda codec, value: ["frozenset", codec.encode_all(frozenset.__iter__(value))],
    dict: lambda codec, value: ["dict", codec.encode_pairs(dict.items(value))],
    range: lambda codec, value: ["range", *(codec.encode(part) for part in (value.start, value.stop, value.step))],
}


def extended(kind):
    """A class of the same name that extends a built-in one and changes nothing."""
    return type("Other", (kind,), {})


#: What a value with the tag ``other`` becomes outside: equal to the built-in value, and of another class, as it was inside.
OTHER = {kind: extended(kind) for kind in ENCODERS if kind is not range}
OTHER[bool] = OTHER[int]


class Array:
    """A NumPy array as far as EvalPlus's comparison asks: it has items, is true of no ``==`` unless it has only one, and then
    equals that item, in however many lists."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)

    def __eq__(self, other):
        item = only_item(self.items)
        if type(item) is list:
            raise ValueError("an array is neither equal nor not")
        return item == only_item(other)


def only_item(value):
    while type(value) in (list, tuple) and len(value) == 1:
        (value,) = value
    return value


def hashable(items):
    """The items of a set or the keys of a dict. Raises ValueError where they are made to take for ever."""
    if len(items) - len(set(map(hash, items))) > MAX_EQUAL_HASHES:
        raise ValueError("too many equal hashes")
    return items


def pairs_of(parts, decode):
    pairs = [(decode(key), decode(value)) for key, value in parts]
    hashable([key for key, _ in pairs])
    return pairs


def decode_plain(tag, parts, decode):
    """The value behind a tag. Raises KeyError on an unknown tag."""
    if tag in ("list", "tuple", "set", "frozenset", "iterator", "deque", "dict_keys", "dict_items"):
        items = [decode(part) if type(part) is list else part for part in parts[0]]
        if tag == "deque":
            from collections import deque

            return deque(items)
        if tag == "dict_keys":
            return dict.fromkeys(hashable(items)).keys()
        if tag == "dict_items":
            hashable([key for key, _ in items])
            return dict(items).items()
        if tag in ("set", "frozenset"):
            hashable(items)
        return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "iterator": iter}[tag](items)
    if tag == "dict":
        return dict(pairs_of(parts[0], decode))
    if tag == "other":
        plain = decode(parts[0])
        return OTHER.get(type(plain), lambda value: value)(plain)
    if tag == "array":
        return Array(decode(parts[0]))
    if tag == "range":
        return range(*(decode(part) for part in parts))
    if tag == "complex":
        return complex(float(parts[0]), float(parts[1]))
    if tag == "type":
        return {plain.__name__: plain for plain in PLAIN_TYPES}[parts[0]]
    if tag == "Decimal":
        from decimal import Decimal

        return Decimal(parts[0])
    if tag == "Fraction":
        from fractions import Fraction

        return Fraction(decode(parts[0]), decode(parts[1]))
    if tag in ("UserList", "UserDict", "UserString"):
        import collections

        return getattr(collections, tag)(decode(parts[0]))
    if tag == "int" and len(parts[0]) > MAX_INTEGER_BITS // 4 + 2:
        raise ValueError("integer too large")
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
#: Events whose first arguments, so many, are paths: allowed in the working folder. (``shutil.rmtree`` and the like are made of
#: these, and announced by events of their own.)
PATH_EVENTS = {
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.truncate": 1,
    "shutil.copyfile": 2,
    "shutil.move": 2,
    "shutil.rmtree": 1,
}
#: Memory of one's own.
ALLOWED_EVENTS = ("ctypes.create_string_buffer", "ctypes.create_unicode_buffer")


def forbid(channel, readable):
    """Report the first forbidden operation and end the process. Paths below ``readable`` may be read, files and folders in
    the working folder read, written and removed."""
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
        elif event in PATH_EVENTS:
            writes += event == "os.mkdir"
            if all(allowed(path, posix.O_WRONLY) for path in arguments[: PATH_EVENTS[event]]) and writes <= MAX_WRITES:
                return
        elif event in ("os.listdir", "os.scandir"):
            if allowed("." if arguments[0] is None else arguments[0], 0):
                return
        elif event == "ctypes.dlopen":
            if arguments[0] is None:  # what is loaded already: import ctypes does so
                return
        elif event in ALLOWED_EVENTS or not event.startswith(FORBIDDEN_EVENTS):
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


class PipeEnd:
    """As much of a socket as asyncio uses to wake its loop."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        posix.set_blocking(descriptor, False)

    def fileno(self):
        return self.descriptor

    def recv(self, size):
        return posix.read(self.descriptor, size)

    def send(self, data):
        return posix.write(self.descriptor, data)

    def close(self):
        posix.close(self.descriptor)


class AsyncioFinder:
    """An entry of ``sys.meta_path`` that has asyncio wake its loop through a pipe: a pair of sockets is denied."""

    def find_spec(self, name, path, target=None):
        if name != "asyncio.selector_events":
            return None
        sys.meta_path.remove(self)
        spec = sys.modules["_frozen_importlib_external"].PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.BaseSelectorEventLoop._make_self_pipe = make_self_pipe

        spec.loader.exec_module = exec_module
        return spec


def make_self_pipe(loop):
    loop._ssock, loop._csock = map(PipeEnd, posix.pipe())
    loop._internal_fds += 1
    loop._add_reader(loop._ssock.fileno(), loop._read_from_self)


RLIMIT_NPROC, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 6, 22, 2


def call_libc(name, *arguments):
    """Without the ctypes module, which would take several milliseconds. Bytes are passed by their address."""
    import _ctypes

    if _ctypes.call_function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name), arguments) != 0:
        raise OSError(name)


def restrict(settings):
    """What can only be taken away once the interpreter runs: processes (threads count), and other programs."""
    if settings["tasks"] is not None:
        call_libc("setrlimit", RLIMIT_NPROC, 2 * settings["tasks"].to_bytes(8, "little"))
    if settings["filter"] is not None:
        statements = settings["filter"]
        address = id(statements) + bytes.__basicsize__ - 1
        header = (len(statements) // 8).to_bytes(8, "little") + address.to_bytes(8, "little")
        call_libc("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header)


def hand_over_folder(channel):
    """Send a descriptor of the working folder, which no path outside leads to."""
    import _socket

    folder = posix.open(".", posix.O_RDONLY)
    socket = _socket.socket(fileno=channel.descriptor)
    socket.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, folder.to_bytes(4, "little"))])
    socket.detach()
    posix.close(folder)


def main():
    channel = Channel(int(sys.argv[1]))
    settings = channel.receive()
    restrict(settings)
    if settings["hand_over"]:
        hand_over_folder(channel)
    if settings["packages"] is not None:
        sys.path.append(settings["packages"])
    codec = Codec()
    namespace = {"__name__": "solution"}
    channel.send({"ready": True})
    program = channel.receive()
    sys.meta_path.insert(0, AsyncioFinder())
    forbid(channel, settings["readable"])
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
