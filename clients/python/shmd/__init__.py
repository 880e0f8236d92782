"""Python client of shmd: a worker that is ready, quits, gives heartbeats, logs and counts.

    import logging, shmd

    worker = shmd.attach()
    logging.basicConfig(level=logging.INFO, handlers=[worker.log_handler()])
    jobs = worker.counter("jobs", help="jobs that are done")
    worker.ready()
    while not worker.wait_quit(seconds=1):
        logging.info("worked", extra={"jobs": 3})
        jobs.add(3)

It stands on the C library, which does all stores into the shared memory: Python has none that another process may rely on. Build it once with
`python3 -m shmd.build`, which takes a C compiler. The layout of the memory is in shmd.layout, which needs nothing.
"""

from shmd.worker import Counter, Error, Gauge, Histogram, LogHandler, Worker, attach

__all__ = ["Counter", "Error", "Gauge", "Histogram", "LogHandler", "Worker", "attach"]
