"""A worker for clients_test.go: see there."""

import logging
import signal
import sys

import shmd

mode = sys.argv[1]
worker = shmd.attach()
logging.basicConfig(level=logging.INFO, handlers=[worker.log_handler()])
records = worker.counter("records", help="records that were logged")
load = worker.gauge("load", unit="percent", help="made up")
size = worker.histogram("size", unit="bytes", help="of a record's text")
worker.ready()
logging.warning("begins", extra={"mode": mode, "ready": True, "half": 0.5, "umlaut": "ü"})
n = 0
while mode == "stream" and not worker.wait_quit(0.0001):
    text = "record %d %s" % (n, chr(ord("a") + n % 26) * (n % 300))
    logging.info(text, extra={"n": n, "square": n * n})
    records.add()
    load.set(12.5)
    size.observe(len(text))
    n += 1
if mode == "asleep":
    worker.wait_quit()
while mode == "computes":
    worker.beat()
while mode == "hangs":
    signal.pause()
logging.info("ends")
