"""What worker_test.go runs as a worker, and reads in Go: a record of each sort, and a metric of each."""

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time

import shmd


class Broken:
    def __str__(self):
        raise RuntimeError("no")


def refused(what, call, *args):
    try:
        call(*args)
    except (shmd.Error, ValueError) as e:
        assert what in str(e), e
    else:
        raise AssertionError("%s was taken" % (args,))


def child(worker, jobs, load, took):
    jobs.add(1)
    load.set(7)
    took.observe(1)
    worker.beat()
    refused("forked", worker.ready)
    refused("forked", worker.quit_asked)
    refused("forked", worker.wait_quit, 1)
    refused("forked", worker.counter, "jobs", "", "jobs that are done")
    logging.info("from a child")


def main():
    worker = shmd.attach()
    assert worker.name == "py.0" and "SHMD_FDS" not in os.environ
    refused("SHMD_FDS", shmd.attach)
    worker.ready()
    handler = worker.log_handler()
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    logging.debug("no fields")
    logging.getLogger("a.b").info("fields %d", 7, extra={"i": -1, "f": 1.5, "nested": {"x": [1, None]}, "s": "a\"\\\n\ufffdü😀", "path": sys})
    logging.warning("strange", extra={"nan": float("nan"), "broken": Broken(), "key": {(1, 2): 3}, "n": None})
    logging.error("surrogate \ud800", extra={"s": "\udcff"})
    try:
        raise KeyError("k")
    except KeyError:
        logging.exception("caught")
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.critical("formatted")
    handler.setFormatter(None)
    logging.info("x" * 5000, extra={"long": "y" * 5000})

    jobs = worker.counter("jobs", help="jobs that are done")
    load = worker.gauge("load", "jobs", "jobs at a time")
    took = worker.histogram("took", unit="nanoseconds", help="ü" * 60)
    assert worker.counter("jobs", help="jobs that are done") is jobs
    jobs.add()
    jobs.add(6)
    load.set(2.5)
    load.add(-1)
    for v in (0, 5, 1 << 40):
        took.observe(v)
    refused("go back", jobs.add, -1)
    refused("below 0", took.observe, -1)
    refused("something else", worker.gauge, "jobs", "", "")
    refused("a-z", worker.counter, "Jobs")
    refused("NUL", worker.counter, "a\0b")
    refused("full", worker.histogram, "more")

    worker.beat()
    begin = time.monotonic()
    assert not worker.quit_asked() and not worker.wait_quit(0) and not worker.wait_quit(0.05) and time.monotonic() - begin >= 0.05
    signal.signal(signal.SIGALRM, lambda *_: logging.info("from a signal's handler"))
    signal.setitimer(signal.ITIMER_REAL, 0.01)  # a signal does not end the waiting
    begin = time.monotonic()
    assert not worker.wait_quit(0.2) and time.monotonic() - begin >= 0.2
    begin = time.monotonic()
    other = threading.Thread(target=lambda: logging.info("from a thread"))  # which runs while this one waits
    other.start()
    worker.wait_quit(0.01)
    other.join()

    p = multiprocessing.get_context("fork").Process(target=child, args=(worker, jobs, load, took))
    p.start()
    p.join()
    assert p.exitcode == 0, p.exitcode
    print(json.dumps({"pid": os.getpid()}))


if __name__ == "__main__":
    main()
