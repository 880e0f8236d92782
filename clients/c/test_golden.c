//go:build ignore
/* The line above keeps the go command from taking this file for cgo. c_test.go compiles and runs it:
 *
 *   test_golden SEGMENT.bin
 *
 * prints every field of every struct in the segment, one a line, as STRUCT[ROW].FIELD=VALUE. Names that begin
 * with _ are derived, as in the .json beside the golden segment. A segment that makes no sense is exit code 1.
 */
#include "shmd_layout.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const unsigned char *base; /* the segment, mapped read-only */
static uint64_t size;
static char at[64]; /* what is being printed: STRUCT[ROW] */

static void fail(const char *what) {
    fprintf(stderr, "test_golden: %s\n", what);
    exit(1);
}

/* place returns the address of n bytes at an offset that was read from the segment. */
static const void *place(uint64_t offset, uint64_t n) {
    if (offset % 8 != 0 || n > size || offset > size - n)
        fail("an offset leaves the segment");
    return base + offset;
}

static void begin(const char *name, uint64_t row) { snprintf(at, sizeof at, "%s[%" PRIu64 "]", name, row); }

static void number(const char *field, uint64_t value) { printf("%s.%s=%" PRIu64 "\n", at, field, value); }

static void text(const char *field, const char *s, size_t max) {
    printf("%s.%s=%.*s\n", at, field, (int)strnlen(s, max), s);
}

static void raw(const char *field, const uint8_t *p, size_t n) {
    printf("%s.%s=", at, field);
    for (size_t i = 0; i < n; i++)
        printf("%02x", p[i]);
    printf("\n");
}

#define LOAD(p, field) atomic_load_explicit(&(p)->field, memory_order_acquire)
#define WORD(p, field) number(#field, LOAD(p, field))
#define TEXT(p, field) text(#field, (p)->field, sizeof(p)->field)
#define RAW(p, field) raw(#field, (p)->field, sizeof(p)->field)

static uint32_t header(void) {
    const struct shmd_segment_header *h = place(SHMD_SEGMENT_HEADER_OFFSET, sizeof *h);
    if (LOAD(h, magic) != SHMD_MAGIC)
        fail("no shmd segment, or not ready");
    if (LOAD(h, layout_major) != SHMD_LAYOUT_MAJOR) {
        fprintf(stderr, "test_golden: layout %u.%u, this program knows %d.%d\n", LOAD(h, layout_major), LOAD(h, layout_minor),
                SHMD_LAYOUT_MAJOR, SHMD_LAYOUT_MINOR);
        exit(1);
    }
    if (LOAD(h, incompat) & ~SHMD_KNOWN_INCOMPAT) {
        fprintf(stderr, "test_golden: layout %u.%u with incompatible features %#" PRIx64 ", this program knows %d.%d\n", LOAD(h, layout_major),
                LOAD(h, layout_minor), LOAD(h, incompat) & ~SHMD_KNOWN_INCOMPAT, SHMD_LAYOUT_MAJOR, SHMD_LAYOUT_MINOR);
        exit(1);
    }
    if (LOAD(h, segment_size) != size)
        fail("the header gives another size");
    begin("SegmentHeader", 0);
    WORD(h, magic);
    WORD(h, layout_major);
    WORD(h, layout_minor);
    WORD(h, compat);
    WORD(h, incompat);
    WORD(h, header_size);
    WORD(h, kind);
    WORD(h, segment_size);
    WORD(h, generation);
    WORD(h, layout_hash);
    RAW(h, boot_id);
    WORD(h, created_unix_ns);
    TEXT(h, name);
    TEXT(h, region);
    return LOAD(h, kind);
}

static void roster(void) {
    const struct shmd_roster_info *r = place(SHMD_ROSTER_INFO_OFFSET, sizeof *r);
    begin("RosterInfo", 0);
    number("_offset", SHMD_ROSTER_INFO_OFFSET);
    WORD(r, daemon_pid);
    WORD(r, daemon_state);
    WORD(r, daemon_start_ticks);
    WORD(r, started_unix_ns);
    WORD(r, segment_count);
    WORD(r, segment_cap);
    WORD(r, group_count);
    WORD(r, group_cap);
    WORD(r, worker_count);
    WORD(r, worker_cap);
    WORD(r, attachment_cap);
    WORD(r, change);
    WORD(r, segment_offset);
    WORD(r, group_offset);
    WORD(r, worker_offset);
    WORD(r, attachment_offset);
    TEXT(r, version);
    TEXT(r, config);
    TEXT(r, dir);
    WORD(r, adopting);
    WORD(r, config_refused);
    for (uint64_t i = 0; i < LOAD(r, segment_count); i++) {
        uint64_t offset = LOAD(r, segment_offset) + i * sizeof(struct shmd_segment_row);
        const struct shmd_segment_row *s = place(offset, sizeof *s);
        begin("SegmentRow", i);
        number("_offset", offset);
        WORD(s, seq);
        WORD(s, kind);
        WORD(s, size);
        WORD(s, inode);
        WORD(s, stalled);
        WORD(s, staller);
        WORD(s, stalled_ns);
        TEXT(s, name);
    }
    for (uint64_t i = 0; i < LOAD(r, group_count); i++) {
        uint64_t offset = LOAD(r, group_offset) + i * sizeof(struct shmd_group_row);
        const struct shmd_group_row *g = place(offset, sizeof *g);
        begin("GroupRow", i);
        number("_offset", offset);
        WORD(g, seq);
        WORD(g, restart);
        WORD(g, configured);
        WORD(g, count);
        WORD(g, stop_timeout_ns);
        TEXT(g, name);
        TEXT(g, command);
        WORD(g, most);
        WORD(g, rollout_state);
        WORD(g, rollout);
        WORD(g, rank);
        TEXT(g, rollout_note);
    }
    for (uint64_t i = 0; i < LOAD(r, worker_count); i++) {
        uint64_t offset = LOAD(r, worker_offset) + i * sizeof(struct shmd_worker_row);
        const struct shmd_worker_row *w = place(offset, sizeof *w);
        begin("WorkerRow", i);
        number("_offset", offset);
        WORD(w, seq);
        WORD(w, state);
        WORD(w, pid);
        WORD(w, group);
        WORD(w, instance);
        WORD(w, attachment);
        WORD(w, start_ticks);
        WORD(w, since_unix_ns);
        WORD(w, restarts);
        WORD(w, exit_code);
        WORD(w, exit_signal);
        TEXT(w, name);
        TEXT(w, reason);
        WORD(w, shim_pid);
        WORD(w, stalled);
        WORD(w, restarted);
        WORD(w, cause);
        WORD(w, restarts_exit);
        WORD(w, restarts_failure);
        WORD(w, restarts_signal);
        WORD(w, restarts_not_ready);
        WORD(w, restarts_not_started);
        WORD(w, restarts_operator);
        WORD(w, restarts_watchdog);
        WORD(w, restarts_unknown);
        WORD(w, restarts_reset);
        WORD(w, trial);
        WORD(w, rolled);
        WORD(w, config_hash);
        WORD(w, drained);
        WORD(w, event);
        WORD(w, drained_number);
    }
    for (uint64_t i = 0; i < LOAD(r, attachment_cap); i++) {
        uint64_t offset = LOAD(r, attachment_offset) + i * sizeof(struct shmd_attachment_row);
        const struct shmd_attachment_row *a = place(offset, sizeof *a);
        begin("AttachmentRow", i);
        number("_offset", offset);
        WORD(a, seq);
        WORD(a, state);
        WORD(a, pid);
        WORD(a, uid);
        WORD(a, start_ticks);
        WORD(a, worker);
        WORD(a, role);
        TEXT(a, name);
    }
}

static void command_rows(const char *name, uint64_t offset, uint32_t count) {
    for (uint32_t i = 0; i < count; i++, offset += sizeof(struct shmd_command_row)) {
        const struct shmd_command_row *c = place(offset, sizeof *c);
        begin(name, i);
        number("_offset", offset);
        WORD(c, quit);
        WORD(c, desired);
        WORD(c, restart);
        WORD(c, count);
        WORD(c, flagged_ns);
        WORD(c, max_unavailable);
        WORD(c, aborted);
    }
}

static void command(void) {
    const struct shmd_command_info *c = place(SHMD_COMMAND_INFO_OFFSET, sizeof *c);
    begin("CommandInfo", 0);
    number("_offset", SHMD_COMMAND_INFO_OFFSET);
    WORD(c, quit);
    WORD(c, desired);
    WORD(c, flagged_ns);
    WORD(c, bell);
    WORD(c, group_cap);
    WORD(c, worker_cap);
    WORD(c, group_offset);
    WORD(c, worker_offset);
    command_rows("CommandRow(groups)", LOAD(c, group_offset), LOAD(c, group_cap));
    command_rows("CommandRow(workers)", LOAD(c, worker_offset), LOAD(c, worker_cap));
}

static void group(void) {
    const struct shmd_group_info *g = place(SHMD_GROUP_INFO_OFFSET, sizeof *g);
    begin("GroupInfo", 0);
    number("_offset", SHMD_GROUP_INFO_OFFSET);
    WORD(g, bell);
    WORD(g, instance_cap);
    WORD(g, instance_stride);
    WORD(g, instance_offset);
    WORD(g, metric_offset);
    WORD(g, metric_rows);
    WORD(g, metric_count);
    WORD(g, instance_count);
    WORD(g, log_count);
    WORD(g, log_stride);
    WORD(g, log_offset);
    WORD(g, log_size);
    WORD(g, log_nap);
    WORD(g, log_bell);
    for (uint64_t i = 0; i < LOAD(g, instance_count); i++) {
        uint64_t offset = LOAD(g, instance_offset) + i * LOAD(g, instance_stride);
        const struct shmd_instance_page *p = place(offset, sizeof *p);
        begin("InstancePage", i);
        number("_offset", offset);
        WORD(p, attached_pid);
        WORD(p, ready);
        WORD(p, ready_ns);
        WORD(p, quit_seen_ns);
        WORD(p, heartbeat_ns);
        WORD(p, asleep);
        WORD(p, answered);
        WORD(p, filter_pid);
        WORD(p, stalled);
        TEXT(p, note);
        WORD(p, ask);
        WORD(p, restarts_exit);
        WORD(p, restarts_failure);
        WORD(p, restarts_signal);
        WORD(p, restarts_not_ready);
        WORD(p, restarts_not_started);
        WORD(p, restarts_operator);
        WORD(p, restarts_watchdog);
        WORD(p, restarts_unknown);
        WORD(p, restarts_reset);
    }
    for (uint64_t i = 0; i < LOAD(g, metric_count); i++) {
        uint64_t offset = LOAD(g, metric_offset) + i * sizeof(struct shmd_metric_row);
        const struct shmd_metric_row *m = place(offset, sizeof *m);
        begin("MetricRow", i);
        number("_offset", offset);
        WORD(m, state);
        WORD(m, kind);
        WORD(m, value);
        WORD(m, owner);
        WORD(m, rows);
        TEXT(m, name);
        TEXT(m, unit);
        TEXT(m, help);
    }
    for (uint64_t i = 0; i < LOAD(g, log_count); i++) {
        uint64_t offset = LOAD(g, log_offset) + i * LOAD(g, log_stride);
        const struct shmd_worker_log *l = place(offset, sizeof *l);
        begin("WorkerLog", i);
        number("_offset", offset);
        WORD(l, head);
        WORD(l, limit);
    }
}

static void slot(uint64_t offset, uint32_t slot_size) {
    const struct shmd_slot_header *s = place(offset, sizeof *s + slot_size);
    uint64_t w = LOAD(s, state);
    uint32_t length = LOAD(s, length);
    unsigned phase = SHMD_STATE_PHASE(w);
    number("_offset", offset);
    number("state", w);
    number("length", length);
    number("frame", LOAD(s, frame));
    number("_phase", phase);
    number("_owner", SHMD_STATE_OWNER(w));
    number("_deliveries", SHMD_STATE_DELIVERIES(w));
    number("_passed", SHMD_STATE_PASSED(w));
    number("_lap", SHMD_STATE_LAP(w));
    if (SHMD_STATE(SHMD_STATE_LAP(w), SHMD_STATE_PASSED(w), SHMD_STATE_DELIVERIES(w), SHMD_STATE_OWNER(w), phase) != w)
        fail("SHMD_STATE does not make what its parts were taken from");
    if (phase != SHMD_PHASE_READY && phase != SHMD_PHASE_READING && phase != SHMD_PHASE_DEAD)
        length = 0;
    if (length > slot_size)
        fail("a payload is longer than its slot");
    printf("%s._payload=%.*s\n", at, (int)length, (const char *)(s + 1));
}

static void queue(void) {
    const struct shmd_queue_info *q = place(SHMD_QUEUE_INFO_OFFSET, sizeof *q);
    begin("QueueInfo", 0);
    number("_offset", SHMD_QUEUE_INFO_OFFSET);
    WORD(q, slots);
    WORD(q, slot_size);
    WORD(q, stride);
    WORD(q, max_deliveries);
    WORD(q, slots_offset);
    WORD(q, flags);
    WORD(q, max_leases);
    WORD(q, tail);
    WORD(q, head);
    WORD(q, receive_waiters);
    WORD(q, receive_chosen_ns);
    WORD(q, receive_bell);
    WORD(q, send_waiters);
    WORD(q, send_chosen_ns);
    WORD(q, send_bell);
    WORD(q, send_owner);
    WORD(q, acked);
    WORD(q, receive_owner);
    WORD(q, attention);
    WORD(q, returned);
    WORD(q, drain);
    for (uint64_t i = 0; i < SHMD_QUEUE_COUNTERS_COUNT; i++) {
        uint64_t offset = SHMD_QUEUE_COUNTERS_OFFSET + i * sizeof(struct shmd_queue_counters);
        const struct shmd_queue_counters *c = place(offset, sizeof *c);
        begin("QueueCounters(stripes)", i);
        number("_offset", offset);
        WORD(c, sent);
        WORD(c, received);
        WORD(c, acked);
        WORD(c, redelivered);
        WORD(c, dead);
        WORD(c, aborted);
    }
    for (uint64_t i = 0; i < LOAD(q, slots); i++) {
        begin("SlotHeader", i);
        slot(LOAD(q, slots_offset) + i * LOAD(q, stride), LOAD(q, slot_size));
    }
}

static void topic(void) {
    const struct shmd_topic_info *t = place(SHMD_TOPIC_INFO_OFFSET, sizeof *t);
    begin("TopicInfo", 0);
    number("_offset", SHMD_TOPIC_INFO_OFFSET);
    WORD(t, slots);
    WORD(t, slot_size);
    WORD(t, stride);
    WORD(t, flags);
    WORD(t, slots_offset);
    WORD(t, headers);
    WORD(t, cursors);
    WORD(t, cursors_offset);
    WORD(t, lengths_offset);
    WORD(t, evict_after_ns);
    WORD(t, first);
    WORD(t, tail);
    WORD(t, limit);
    WORD(t, floor);
    WORD(t, receive_waiters);
    WORD(t, receive_bell);
    WORD(t, send_waiters);
    WORD(t, send_bell);
    WORD(t, publisher);
    WORD(t, cursors_used);
    WORD(t, received);
    WORD(t, lost);
    WORD(t, skipped);
    WORD(t, evicted);
    for (uint64_t i = 0; i < LOAD(t, cursors); i++) {
        uint64_t offset = LOAD(t, cursors_offset) + i * sizeof(struct shmd_topic_cursor);
        const struct shmd_topic_cursor *c = place(offset, sizeof *c);
        begin("TopicCursor", i);
        number("_offset", offset);
        WORD(c, state);
        WORD(c, position);
        WORD(c, begun);
        WORD(c, lost);
        WORD(c, noted);
        WORD(c, evicted0);
        WORD(c, evicted1);
        WORD(c, evicted2);
        WORD(c, evicted3);
        WORD(c, told);
        WORD(c, telling);
        WORD(c, telling_event);
    }
    for (uint64_t i = 0; i < LOAD(t, headers); i++) {
        begin("SlotHeader", i);
        slot(LOAD(t, slots_offset) + i * LOAD(t, stride), LOAD(t, slot_size));
    }
}

static void version(uint64_t offset, uint32_t slot_size) {
    const struct shmd_latest_slot *s = place(offset, sizeof *s + slot_size);
    uint64_t w = LOAD(s, state);
    uint32_t length = LOAD(s, length);
    number("_offset", offset);
    number("state", w);
    number("length", length);
    number("_phase", SHMD_LATEST_SLOT_PHASE(w));
    number("_owner", SHMD_LATEST_SLOT_OWNER(w));
    number("_version", SHMD_LATEST_SLOT_VERSION(w));
    if (SHMD_LATEST_SLOT_PHASE(w) != SHMD_PHASE_READY)
        length = 0;
    if (length > slot_size)
        fail("a value is longer than its slot");
    printf("%s._value=%.*s\n", at, (int)length, (const char *)(s + 1));
}

static void latest(void) {
    const struct shmd_latest_info *l = place(SHMD_LATEST_INFO_OFFSET, sizeof *l);
    begin("LatestInfo", 0);
    number("_offset", SHMD_LATEST_INFO_OFFSET);
    WORD(l, slots);
    WORD(l, slot_size);
    WORD(l, stride);
    WORD(l, flags);
    WORD(l, slots_offset);
    WORD(l, current);
    WORD(l, waiters);
    WORD(l, bell);
    WORD(l, aborted);
    number("_slot", SHMD_LATEST_INFO_SLOT(LOAD(l, current)));
    number("_version", SHMD_LATEST_INFO_VERSION(LOAD(l, current)));
    for (uint64_t i = 0; i < LOAD(l, slots); i++) {
        begin("LatestSlot", i);
        version(LOAD(l, slots_offset) + i * LOAD(l, stride), LOAD(l, slot_size));
    }
}

static void call_slot(uint64_t offset, uint64_t stride) {
    const struct shmd_call_slot *s = place(offset, stride);
    uint64_t w = LOAD(s, state), request = LOAD(s, request), reply = LOAD(s, reply);
    uint64_t n = SHMD_CALL_SLOT_LENGTH(request), m = SHMD_CALL_SLOT_REPLY_LENGTH(reply);
    uint64_t end = sizeof *s + n, place_of_reply = (end + 7) / 8 * 8;
    if (place_of_reply >= 64)
        place_of_reply = (end + 63) / 64 * 64;
    number("_offset", offset);
    number("state", w);
    number("request", request);
    number("reply", reply);
    number("bell", LOAD(s, bell));
    number("_phase", SHMD_CALL_SLOT_PHASE(w));
    number("_caller", SHMD_CALL_SLOT_CALLER(w));
    number("_server", SHMD_CALL_SLOT_SERVER(w));
    number("_deliveries", SHMD_CALL_SLOT_DELIVERIES(w));
    number("_asleep", SHMD_CALL_SLOT_ASLEEP(w));
    number("_seq", SHMD_CALL_SLOT_SEQ(w));
    number("_ticket", SHMD_CALL_SLOT_TICKET(request));
    number("_length", n);
    number("_code", SHMD_CALL_SLOT_CODE(reply));
    number("_reply_length", m);
    if (SHMD_CALL_SLOT_PHASE(w) != SHMD_CALL_PHASE_ANSWERED)
        m = 0;
    if (place_of_reply + m > stride)
        fail("a reply is longer than its slot");
    printf("%s._request=%.*s\n", at, (int)n, (const char *)(s + 1));
    printf("%s._reply=%.*s\n", at, (int)m, (const char *)s + place_of_reply);
}

static void call(void) {
    const struct shmd_call_info *c = place(SHMD_CALL_INFO_OFFSET, sizeof *c);
    begin("CallInfo", 0);
    number("_offset", SHMD_CALL_INFO_OFFSET);
    WORD(c, slots);
    WORD(c, slot_size);
    WORD(c, stride);
    WORD(c, slots_offset);
    WORD(c, max_deliveries);
    WORD(c, flags);
    WORD(c, reach);
    WORD(c, tickets);
    WORD(c, serve_waiters);
    WORD(c, serve_bell);
    WORD(c, call_waiters);
    WORD(c, call_bell);
    WORD(c, want_bell);
    for (uint64_t i = 0; i < SHMD_CALL_COUNTERS_COUNT; i++) {
        uint64_t offset = SHMD_CALL_COUNTERS_OFFSET + i * sizeof(struct shmd_call_counters);
        const struct shmd_call_counters *n = place(offset, sizeof *n);
        begin("CallCounters(stripes)", i);
        number("_offset", offset);
        WORD(n, requests);
        WORD(n, answered);
        WORD(n, retried);
        WORD(n, broken);
        WORD(n, left);
    }
    for (uint64_t i = 0; i < LOAD(c, slots); i++) {
        begin("CallSlot", i);
        call_slot(LOAD(c, slots_offset) + i * LOAD(c, stride), LOAD(c, stride));
    }
}

static void record_log(void) {
    const struct shmd_log_info *l = place(SHMD_LOG_INFO_OFFSET, sizeof *l);
    begin("LogInfo", 0);
    number("_offset", SHMD_LOG_INFO_OFFSET);
    WORD(l, ring_offset);
    WORD(l, ring_size);
    WORD(l, tail);
    WORD(l, head);
    WORD(l, bell);
    WORD(l, given);
    const struct shmd_event_info *e = place(SHMD_EVENT_INFO_OFFSET, sizeof *e);
    begin("EventInfo", 0);
    number("_offset", SHMD_EVENT_INFO_OFFSET);
    WORD(e, ring_offset);
    WORD(e, ring_size);
    WORD(e, tail);
    WORD(e, head);
    WORD(e, bell);
    uint64_t ring_size = LOAD(l, ring_size), head = LOAD(l, head), row = 0;
    const unsigned char *ring = place(LOAD(l, ring_offset), ring_size);
    if (ring_size == 0 || (ring_size & (ring_size - 1)) != 0)
        fail("the size of the ring is no power of two");
    for (uint64_t p = LOAD(l, tail); p != head; row++) {
        struct shmd_log_record r; /* a copy, unwrapped */
        for (size_t i = 0; i < sizeof r; i++)
            ((unsigned char *)&r)[i] = ring[(p + i) & (ring_size - 1)];
        uint64_t parts[] = {LOAD(&r, length), LOAD(&r, attrs), LOAD(&r, source)}, length = parts[0] + parts[1] + parts[2];
        static const char *const names[] = {"_text", "_attrs", "_source"};
        if (head - p < sizeof r || length > head - p - sizeof r)
            fail("a record reaches beyond the head");
        begin("LogRecord", row);
        number("_position", p);
        WORD(&r, length);
        WORD(&r, level);
        WORD(&r, seq);
        WORD(&r, unix_ns);
        WORD(&r, pid);
        WORD(&r, stream);
        WORD(&r, worker);
        WORD(&r, attrs);
        WORD(&r, position);
        WORD(&r, source);
        WORD(&r, number);
        for (uint64_t k = 0, from = p + sizeof r; k < 3; k++) {
            printf("%s.%s=", at, names[k]);
            for (uint64_t i = 0; i < parts[k]; i++)
                putchar(ring[from++ & (ring_size - 1)]);
            printf("\n");
        }
        p += sizeof r + ((length + 7) & ~(uint64_t)7);
    }
}

int main(int argc, char **argv) {
    struct stat st;
    int fd = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0 || fstat(fd, &st) != 0)
        fail("usage: test_golden SEGMENT.bin");
    size = (uint64_t)st.st_size;
    void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        fail("mmap");
    base = p;
    switch (header()) {
    case SHMD_KIND_ROSTER:
        roster();
        break;
    case SHMD_KIND_COMMAND:
        command();
        break;
    case SHMD_KIND_GROUP:
        group();
        break;
    case SHMD_KIND_CALL:
        call();
        break;
    case SHMD_KIND_LATEST:
        latest();
        break;
    case SHMD_KIND_TOPIC:
        topic();
        break;
    case SHMD_KIND_QUEUE:
        queue();
        break;
    case SHMD_KIND_LOG:
        record_log();
        break;
    default:
        fail("unknown kind");
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
