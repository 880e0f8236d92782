#!/usr/bin/env python3
"""A worker of shmd in Python: it says that it is ready, works, logs, counts, and quits when asked to.

Here it only looks at a file that all workers map, of which there is one copy in memory; put your own work into work().
"""

import logging
import mmap
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../clients/python"))
import shmd  # noqa: E402


def work(table, n):
    """One piece of work on the shared table."""
    at = n * 4096 % len(table)
    return sum(table[at : at + 4096])


def main():
    worker = shmd.attach()
    logging.basicConfig(level=logging.INFO, handlers=[worker.log_handler()])
    pages = worker.counter("summed", unit="pages", help="pages of the table that were summed up")
    path = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as table:
        worker.ready()
        logging.info("maps a table", extra={"path": path, "bytes": len(table)})
        n = 0
        while not worker.wait_quit(seconds=1):  # asleep; a stop wakes it at once
            for _ in range(100):
                result = work(table, n)
                pages.add()
                n += 1
            logging.debug("worked", extra={"n": n, "sum": result})
    logging.info("quits", extra={"n": n})


if __name__ == "__main__":
    try:
        main()
    except shmd.Error as e:
        sys.exit(str(e))
