#!/usr/bin/env python3
"""A worker of shmd in plain Python: it says that it is ready, serves, and quits when asked to.

It needs no package but the generated clients/python/shmd/layout.py. Here it only looks at a file that all workers
map, of which there is one copy in memory; put your own work into work().
"""

import ctypes
import mmap
import os
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../clients/python"))
from shmd import layout  # noqa: E402

SYS_FUTEX = {"x86_64": 202, "aarch64": 98}[os.uname().machine]
FUTEX_WAIT, FUTEX_WAKE = 0, 1
libc = ctypes.CDLL(None, use_errno=True)


def field(struct_name, name):
    """Offset of a field within its struct."""
    return layout.FIELDS[struct_name][name][0]


class Worker:
    """This process as an instance of a worker group."""

    def __init__(self):
        names = os.environ.pop("SHMD_FDS").split(",")
        for fd in range(3, 3 + len(names)):
            os.set_inheritable(fd, False)  # children of this worker get nothing
        maps = {}
        for fd, name in enumerate(names, 3):
            if name in ("roster", "command"):  # read-only descriptors
                maps[name] = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            elif name == "group":
                maps[name] = mmap.mmap(fd, 0)
        self.command, self.group = maps["command"], maps["group"]
        me = os.environ["SHMD_WORKER"]
        rows = {name: offsets for name, _, offsets in layout.sections(maps["roster"])}["WorkerRow"]
        for index, base in enumerate(rows):
            row = layout.read(maps["roster"], base, "WorkerRow")
            if row["name"] == me:
                break
        else:
            sys.exit("the roster has no worker %r" % me)
        pages = {name: offsets for name, _, offsets in layout.sections(self.group)}["InstancePage"]
        self.page = pages[row["instance"]]
        workers = [offsets for _, what, offsets in layout.sections(self.command) if what == "workers"][0]
        self.quit = workers[index] + field("CommandRow", "quit")  # a stop of the group or region rings this word too
        self.set("InstancePage", "attached_pid", "I", os.getpid())

    def set(self, struct_name, name, form, value):
        struct.pack_into(form, self.group, self.page + field(struct_name, name), value)

    def ready(self):
        self.set("InstancePage", "ready_ns", "Q", time.monotonic_ns())
        self.set("InstancePage", "ready", "I", 1)
        bell = layout.SIZES["SegmentHeader"] + field("GroupInfo", "bell")
        (n,) = struct.unpack_from("I", self.group, bell)
        struct.pack_into("I", self.group, bell, (n + 1) & 0xFFFFFFFF)  # a ring that another instance overwrites is harmless
        word = ctypes.c_uint32.from_buffer(self.group, bell)
        libc.syscall(SYS_FUTEX, ctypes.byref(word), FUTEX_WAKE, 1 << 30, None)

    def quit_asked(self):
        return self.command[self.quit] != 0  # the low byte is the flag

    def wait_quit(self, seconds=None):
        """Sleep until the quit flag is set, or for so long. Returns whether it is set."""
        class Timespec(ctypes.Structure):
            _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]

        # ctypes wants writable memory to take an address of; the kernel wants an address only.
        view = (ctypes.c_char * 4).from_buffer_copy(self.command, self.quit)
        (value,) = struct.unpack("I", view.raw)
        if value & 0xFF == 0:
            address = address_of(self.command) + self.quit
            limit = None
            if seconds is not None:
                limit = ctypes.byref(Timespec(int(seconds), int(seconds % 1 * 1e9)))
            libc.syscall(SYS_FUTEX, ctypes.c_void_p(address), FUTEX_WAIT, ctypes.c_uint32(value), limit)
        if not self.quit_asked():
            return False
        self.set("InstancePage", "quit_seen_ns", "Q", time.monotonic_ns())
        return True


def address_of(read_only_map):
    """The address of a read-only mapping, through the buffer protocol."""
    class Buffer(ctypes.Structure):
        _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
                    ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
                    ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
                    ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p)]

    view = Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(read_only_map), ctypes.byref(view), 0)
    try:
        return view.buf
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


def work(table):
    """One piece of work on the shared table."""
    return table[:16].hex()


def main():
    worker = Worker()
    path = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as table:
        worker.ready()
        print("%s maps %s, %d bytes: %s" % (os.environ["SHMD_WORKER"], path, len(table), work(table)), flush=True)
        while not worker.wait_quit(seconds=60):
            pass
    print("quits", flush=True)


if __name__ == "__main__":
    main()
