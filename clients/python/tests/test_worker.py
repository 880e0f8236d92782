"""Tests of what shmd.worker does without a region; the rest is in worker_test.go."""

import json
import os
import unittest

import shmd
from shmd import worker


class Attributes(unittest.TestCase):
    def test_always_json(self):
        circle = {}
        circle["self"] = circle
        for fields in (
            {},
            {"a": 1, "b": [True, None, 1.5, "x"]},
            {"nan": float("nan"), "inf": [float("-inf")]},
            {"circle": circle},
            {"key": {1: 2, (3, 4): 5}},
            {"object": object(), "bytes": b"\xff", "class": int},
            {"control": "\x00\x1f\x7f\n\"\\", "surrogate": "\udc80"},
            {7: "a key that is no text"},
            {"large": 1 << 100},
        ):
            text = worker.attributes(fields)
            self.assertIsInstance(text, bytes)
            back = json.loads(b"{" + text + b"}")
            self.assertEqual(list(back), [str(k) for k in fields])

    def test_values(self):
        self.assertEqual(worker.attributes({"a": 1, "b": "ü", "c": {"d": [1]}}), '"a":1,"b":"ü","c":{"d":[1]}'.encode())


class WaitQuit(unittest.TestCase):
    def test_for_ever(self):
        class Library:
            def wait_quit(self, handle, ns):
                self.ns = ns
                return 1

        for seconds in (float("inf"), 1e30):
            lib = Library()
            self.assertTrue(worker.Worker(lib, None).wait_quit(seconds))
            self.assertTrue(10**18 < lib.ns < 1 << 63)


class Attach(unittest.TestCase):
    def test_without_library(self):
        before = os.environ.get("SHMD_LIBRARY")
        os.environ["SHMD_LIBRARY"] = "/nowhere/libshmd.so"
        try:
            with self.assertRaisesRegex(shmd.Error, "python3 -m shmd.build"):
                shmd.attach()
        finally:
            os.environ.pop("SHMD_LIBRARY")
            if before is not None:
                os.environ["SHMD_LIBRARY"] = before


if __name__ == "__main__":
    unittest.main()
