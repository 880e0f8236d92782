"""A worker of shmd: this process as an instance of a worker group. See the package for an example.

Everything may be called by any number of threads. A process that was forked from a worker, as by multiprocessing, has no part in the region: in it these raise Error, or count
nothing, and what it logs goes to its standard error, which shmd has in its log too.
"""

import ctypes
import errno
import json
import logging
import math
import os
import pathlib
import sys
import threading
import time


class Error(Exception):
    """The process cannot be a worker, or a metric not be defined. The text says why."""


class _Entry(ctypes.Structure):  # struct shmd_entry
    _fields_ = [
        ("unix_ns", ctypes.c_int64),
        ("text", ctypes.c_char_p),
        ("attrs", ctypes.c_char_p),
        ("source", ctypes.c_char_p),
        ("text_size", ctypes.c_uint32),
        ("attrs_size", ctypes.c_uint32),
        ("source_size", ctypes.c_uint32),
        ("level", ctypes.c_int32),
    ]


_FORKED = "this process was forked from a worker, and is none"

_METRIC = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p]

# Functions of shmd.h: name, result, arguments.
_FUNCTIONS = [
    ("shmd_attach", ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_size_t]),
    ("shmd_name", ctypes.c_char_p, [ctypes.c_void_p]),
    ("shmd_ready", ctypes.c_int, [ctypes.c_void_p]),
    ("shmd_quit_asked", ctypes.c_int, [ctypes.c_void_p]),
    ("shmd_wait_quit", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int64]),
    ("shmd_beat", None, [ctypes.c_void_p]),
    ("shmd_log_entry", ctypes.c_int, [ctypes.c_void_p, ctypes.POINTER(_Entry)]),
    ("shmd_counter", ctypes.c_void_p, _METRIC),
    ("shmd_gauge", ctypes.c_void_p, _METRIC),
    ("shmd_histogram", ctypes.c_void_p, _METRIC),
    ("shmd_count", None, [ctypes.c_void_p, ctypes.c_uint64]),
    ("shmd_gauge_set", None, [ctypes.c_void_p, ctypes.c_double]),
    ("shmd_gauge_add", None, [ctypes.c_void_p, ctypes.c_double]),
    ("shmd_observe", None, [ctypes.c_void_p, ctypes.c_uint64]),
]

_lib = None
_lib_lock = threading.Lock()


class _Library:
    """The functions of the C library. What may sleep lets other threads run meanwhile; the others are too short for that to pay."""

    def __init__(self, path):
        short, long = ctypes.PyDLL(path, use_errno=True), ctypes.CDLL(path, use_errno=True)
        for name, result, arguments in _FUNCTIONS:
            function = getattr(long if name == "shmd_wait_quit" else short, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name[len("shmd_") :], function)


def _load():
    global _lib
    with _lib_lock:
        if _lib is None:
            path = os.environ.get("SHMD_LIBRARY")
            beside = pathlib.Path(__file__).resolve().parent / "libshmd.so"
            if not path:
                path = str(beside) if beside.exists() else "libshmd.so"
            try:
                _lib = _Library(path)
            except (OSError, AttributeError) as e:
                raise Error(
                    "the C library cannot be loaded: %s. Build it with `PYTHONPATH=%s python3 -m shmd.build`, or name it in SHMD_LIBRARY"
                    % (e, beside.parents[1])
                ) from e
        return _lib


def attach():
    """Make this process the worker that its environment names, once, and return the Worker.

    Error: shmd did not start it, another process has its place, the memory is of another version, or the C library is not there.
    """
    lib = _load()
    why = ctypes.create_string_buffer(300)
    handle = lib.attach(why, len(why))
    if not handle:
        raise Error(why.value.decode("utf-8", "replace"))
    os.environ.pop("SHMD_FDS", None)
    return Worker(lib, handle)


class Worker:
    """This process as an instance of a worker group. attach() makes it."""

    def __init__(self, lib, handle):
        self._lib, self._handle = lib, handle
        self._metrics = {}  # by name, so that each is one object

    @property
    def name(self):
        """The instance's name, such as "parser.2"."""
        return self._lib.name(self._handle).decode()

    def ready(self):
        """Say that the worker is ready, which `ready = "call"` in the configuration waits for."""
        self._check(self._lib.ready(self._handle))

    @staticmethod
    def _check(result):
        if result < 0:
            raise Error(_FORKED)
        return result

    def quit_asked(self):
        """Return whether the worker is asked to quit."""
        return self._check(self._lib.quit_asked(self._handle)) == 1

    def wait_quit(self, seconds=None):
        """Sleep until the worker is asked to quit, or for so long. Returns whether it is asked. The watchdog expects nothing meanwhile."""
        if seconds is None:
            while self._check(self._lib.wait_quit(self._handle, -1)) == 0:
                pass  # a signal: its handler runs between two calls
            return True
        end = time.monotonic() + seconds
        while True:
            rest = end - time.monotonic()
            asked = self._check(self._lib.wait_quit(self._handle, int(max(0, min(rest * 1e9, 1 << 62)))))
            if asked != 0 or rest <= 0:
                return asked == 1

    def beat(self):
        """Tell the watchdog that the worker lives. quit_asked and wait_quit do so by themselves; who computes for longer without them calls it now and then."""
        self._lib.beat(self._handle)

    def log_handler(self, level=logging.NOTSET):
        """Return a logging.Handler that writes to the worker's log."""
        return LogHandler(self, level)

    def counter(self, name, unit="", help=""):
        """Return the Counter of this name. The next process of the instance goes on with it.

        name is lower_snake without unit, unit that of the value ("bytes", "nanoseconds") or nothing, help a sentence for people.
        Error: one of them is not so; this process defined the name as something else; there is no room (see `metrics` in the configuration).
        """
        return self._metric(Counter, self._lib.counter, name, unit, help)

    def gauge(self, name, unit="", help=""):
        """Return the Gauge of this name, which begins at 0. See counter."""
        return self._metric(Gauge, self._lib.gauge, name, unit, help)

    def histogram(self, name, unit="", help=""):
        """Return the Histogram of this name: it takes seven rows of the instance's table. See counter."""
        return self._metric(Histogram, self._lib.histogram, name, unit, help)

    def _metric(self, kind, define, name, unit, help):
        if "\0" in name + unit + help:
            raise Error("metric %r: a name, unit or help with a NUL" % name)
        cell = define(self._handle, name.encode(), unit.encode(), help.encode("utf-8", "replace"))
        if cell:
            return self._metrics.setdefault((kind, name), kind(self._lib, cell))
        code = ctypes.get_errno()
        why = {
            errno.EINVAL: "name and unit are 1 to 64 and 0 to 24 of a-z, 0-9 and _, beginning with a letter",
            errno.EEXIST: "this process defined it as something else",
            errno.ENOSPC: "the instance's table is full: see `metrics` in the worker's table of the configuration",
            errno.EPERM: _FORKED,
        }.get(code, os.strerror(code))
        raise Error("metric %r in %r: %s" % (name, unit, why))


class Counter:
    """A number that only grows, in the shared memory."""

    def __init__(self, lib, cell):
        self._lib, self._cell = lib, cell

    def add(self, n=1):
        """Count n more: an int, not below 0."""
        if n < 0:
            raise ValueError("a counter does not go back by %d" % -n)
        self._lib.count(self._cell, n)


class Gauge:
    """A number that goes up and down, in the shared memory."""

    def __init__(self, lib, cell):
        self._lib, self._cell = lib, cell

    def set(self, value):
        self._lib.gauge_set(self._cell, value)

    def add(self, value):
        self._lib.gauge_add(self._cell, value)


class Histogram:
    """How often which value came, in the shared memory, in buckets of a quarter of a power of two."""

    def __init__(self, lib, cell):
        self._lib, self._cell = lib, cell

    def observe(self, value):
        """Count a value: an int, not below 0, in the histogram's unit."""
        if value < 0:
            raise ValueError("a histogram counts no value below 0, as %d" % value)
        self._lib.observe(self._cell, value)


# What every logging.LogRecord has; the rest is what the program gave as extra.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_PLAIN = logging.Formatter("%(message)s")


class LogHandler(logging.Handler):
    """Writes records to the worker's log: shmctl logs shows them, with `extra` as fields.

    A record is there as a whole or not at all wherever the process is killed. Text is the message, or what a formatter makes of the record if one is set. Other fields
    are `logger`, of another than the root, and of an exception `error` and `traceback`. Values that JSON does not know are shown as str() has them.
    """

    def __init__(self, worker, level=logging.NOTSET):
        super().__init__(level)
        self.formatter = _PLAIN  # logging.basicConfig gives its own to a handler that has none
        self._lib, self._handle = worker._lib, worker._handle

    def emit(self, record):
        try:
            text = self._text(record).encode("utf-8", "replace")
            attrs = attributes(self._fields(record))
            path = record.pathname.rsplit("/", 2)
            source = ("%s:%d" % ("/".join(path[-2:]), record.lineno)).encode("utf-8", "replace")
            level = record.levelno
            level = 3 if level >= logging.ERROR else 4 if level >= logging.WARNING else 6 if level >= logging.INFO else 7
            entry = _Entry(int(record.created * 1e9), text, attrs, source, len(text), len(attrs), len(source), level)
            if self._lib.log_entry(self._handle, ctypes.byref(entry)) != 0:  # a forked child, or a group without logs
                sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def _text(self, record):
        return record.getMessage() if self._plain() else self.formatter.format(record)

    def _plain(self):
        return self.formatter is None or self.formatter is _PLAIN

    def _fields(self, record):
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.name != "root":
            fields.setdefault("logger", record.name)
        if self._plain():
            if record.exc_info and record.exc_info[1] is not None:
                fields.setdefault("error", "%s: %s" % (type(record.exc_info[1]).__name__, record.exc_info[1]))
                fields.setdefault("traceback", _PLAIN.formatException(record.exc_info))
            if record.stack_info:
                fields.setdefault("stack", record.stack_info)
        return fields


def attributes(fields):
    """Return a dict as the inside of a JSON object, in UTF-8: b'"a":1,"b":"x"'. Whatever is in it, what comes is JSON."""
    if not fields:
        return b""
    try:
        text = _dump(fields, allow_nan=False, default=str)
    except Exception:  # a number that JSON does not know, a circle, a key that is no text, a value whose str() fails
        text = _dump({str(key): _plain(value) for key, value in fields.items()})
    return text[1:-1].encode("utf-8", "replace")


def _dump(fields, **options):
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), **options)


def _plain(value):
    if value is None or isinstance(value, (bool, int, str)) or isinstance(value, float) and math.isfinite(value):
        return value
    try:
        return str(value)
    except Exception as e:
        return "!%s" % type(e).__name__
