"""Tests of shmd.layout against the golden segments that all languages read.

Run: PYTHONPATH=clients/python python3 -m unittest discover -s clients/python/tests
"""

import json
import pathlib
import struct
import unittest

from shmd import layout

GOLDEN = pathlib.Path(__file__).resolve().parents[3] / "pkg" / "protocol" / "testdata" / "golden"
KINDS = ["roster", "command", "group", "queue", "log", "latest", "call"]
HOLDS_MESSAGE = (layout.Phase.READY, layout.Phase.READING, layout.Phase.DEAD)


def plain(row):
    """Return a row as it stands in the JSON: raw bytes as hexadecimal digits."""
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in row.items()}


def slot(buf, offset, stride):
    """Return a slot's header with the parts of its state word, and its payload if it holds a message."""
    row = layout.read(buf, offset, "SlotHeader")
    parts = layout.state(row["state"])
    row.update(("_" + k, v) for k, v in parts.items())
    payload = b""
    if parts["phase"] in HOLDS_MESSAGE:
        start = offset + layout.SIZES["SlotHeader"]
        payload = bytes(buf[start : start + row["length"]])
        assert start + row["length"] <= offset + stride
    row["_payload"] = payload.decode()
    return row


def version(buf, offset):
    """Return the head of a slot of a latest value with the parts of its state word, and its value if it holds one."""
    row = layout.read(buf, offset, "LatestSlot")
    parts = layout.latest_slot_state(row["state"])
    row.update(("_" + k, v) for k, v in parts.items())
    start = offset + layout.SIZES["LatestSlot"]
    length = row["length"] if parts["phase"] == layout.Phase.READY else 0
    row["_value"] = bytes(buf[start : start + length]).decode()
    return row


def call(buf, offset):
    """Return the head of a call slot with the parts of its words, its request, and its reply if it holds one."""
    row = layout.read(buf, offset, "CallSlot")
    for word in ("state", "request", "reply"):
        row.update(("_" + k, v) for k, v in getattr(layout, "call_slot_" + word)(row[word]).items())
    end = layout.SIZES["CallSlot"] + row["_length"]
    at = (end + 7) // 8 * 8
    if at >= 64:
        at = (end + 63) // 64 * 64
    length = row["_reply_length"] if row["_phase"] == layout.CallPhase.ANSWERED else 0
    row["_request"] = bytes(buf[offset + layout.SIZES["CallSlot"] : offset + end]).decode()
    row["_reply"] = bytes(buf[offset + at : offset + at + length]).decode()
    return row


def records(buf, info):
    """Return the records of a log, oldest first."""
    begin, size = info["ring_offset"], info["ring_size"]
    ring = bytes(buf[begin : begin + size])
    rows = []
    position = info["tail"]
    while position != info["head"]:
        at = position % size
        unwrapped = ring[at:] + ring[:at]
        row = layout.read(unwrapped, 0, "LogRecord")
        start = layout.SIZES["LogRecord"]
        row["_position"] = position
        end = start
        for name, length in ("_text", row["length"]), ("_attrs", row["attrs"]), ("_source", row["source"]):
            row[name] = unwrapped[end : end + length].decode()
            end += length
        rows.append(row)
        position += (end + 7) // 8 * 8
    return rows


def decode(buf):
    """Return a segment as its JSON has it."""
    doc = {"header": plain(layout.read(buf, 0, "SegmentHeader")), "sections": []}
    heads = {}
    for name, what, offsets in layout.sections(buf):
        if name == "SegmentHeader":
            continue
        rows = []
        for offset in offsets:
            if name == "SlotHeader":
                row = slot(buf, offset, heads["QueueInfo"]["stride"])
            elif name == "CallSlot":
                row = call(buf, offset)
            elif name == "LatestSlot":
                row = version(buf, offset)
            else:
                row = layout.read(buf, offset, name)
            if name == "LatestInfo":
                row.update(("_" + k, v) for k, v in layout.latest_info_current(row["current"]).items())
            row["_offset"] = offset
            rows.append(plain(row))
        heads[name] = rows[0] if rows else None
        doc["sections"].append({"struct": name, "what": what, "rows": rows})
    if "LogInfo" in heads:
        doc["sections"].append({"struct": "LogRecord", "what": "", "rows": records(buf, heads["LogInfo"])})
    return doc


class Golden(unittest.TestCase):
    maxDiff = None

    def test_every_field(self):
        for kind in KINDS:
            with self.subTest(kind=kind):
                buf = memoryview((GOLDEN / (kind + ".bin")).read_bytes())
                want = json.loads((GOLDEN / (kind + ".json")).read_text("utf-8"))
                self.assertEqual(decode(buf), want)

    def test_enums(self):
        buf = (GOLDEN / "roster.bin").read_bytes()
        found = {name: offsets for name, _, offsets in layout.sections(buf)}
        workers = [layout.read(buf, offset, "WorkerRow") for offset in found["WorkerRow"]]
        self.assertEqual(
            [layout.State(w["state"]) for w in workers],
            [layout.State.READY, layout.State.BACKOFF, layout.State.FAILED, layout.State.READY],
        )
        self.assertEqual(layout.Kind(layout.read(buf, 0, "SegmentHeader")["kind"]), layout.Kind.ROSTER)
        self.assertEqual(layout.QueueFlag.SPARSE | layout.QueueFlag.DEAD_LETTER, 3)

    def test_newer_minor_version_is_accepted(self):
        buf = bytearray((GOLDEN / "queue.bin").read_bytes())
        before = list(layout.sections(buf))
        struct.pack_into("I", buf, 12, layout.LAYOUT_MINOR + 1)
        self.assertEqual(list(layout.sections(buf)), before)

    def test_damage_is_refused(self):
        good = (GOLDEN / "queue.bin").read_bytes()
        info = layout.FIELDS["QueueInfo"]
        for what, offset, form, value in [
            ("magic", 0, "Q", 0),
            ("major version", 8, "I", layout.LAYOUT_MAJOR + 1),
            ("older major version", 8, "I", layout.LAYOUT_MAJOR - 1),
            ("incompat", 24, "Q", 1 << 40),
            ("slots_offset", 256 + info["slots_offset"][0], "Q", 1 << 63),
            ("slots", 256 + info["slots"][0], "I", 0xFFFFFFFF),
            ("stride", 256 + info["stride"][0], "I", 0),
        ]:
            with self.subTest(what=what):
                buf = bytearray(good)
                struct.pack_into(form, buf, offset, value)
                with self.assertRaises(ValueError):
                    list(layout.sections(buf))
        with self.assertRaises(ValueError):
            list(layout.sections(good[:100]))
        with self.assertRaises(ValueError):
            list(layout.sections(good[:2000]))
        with self.assertRaises(ValueError):
            layout.read(good, len(good) - 8, "WorkerRow")


class Layout(unittest.TestCase):
    def test_fields_lie_within_their_struct_and_apart(self):
        self.assertEqual(set(layout.SIZES), set(layout.FIELDS))
        for name, fields in layout.FIELDS.items():
            end = 0
            for field, (offset, form) in fields.items():
                with self.subTest(struct=name, field=field):
                    self.assertGreaterEqual(offset, end)
                    end = offset + struct.calcsize(form)
                    self.assertLessEqual(end, layout.SIZES[name])
                    self.assertEqual(offset % (4 if form == "I" else 8), 0)

    def test_state_word(self):
        word = 0x89ABCDEF << 32 | 1 << 26 | 63 << 20 | 0xFFFE << 4 | layout.Phase.READING
        self.assertEqual(
            layout.state(word),
            {"phase": 3, "owner": 0xFFFE, "deliveries": 63, "passed": 1, "lap": 0x89ABCDEF},
        )


if __name__ == "__main__":
    unittest.main()
