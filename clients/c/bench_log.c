//go:build ignore
/* The line above keeps the go command from taking this file for cgo. bench_test.go compiles it and runs it:
 *
 *   bench_log TEXT ATTRS SOURCE N
 *
 * prints nanoseconds a record: of the least that it costs (the record's bytes are copied into a ring and one word stored with release; no lock, no clock), of
 * shmd_log_entry with the same bytes, and of shmd_log with four fields, which looks at the clock and makes the JSON;
 * and of that look at the clock. */
#include "shmd.c"

static uint64_t twin_head, twin_seq;
static char *twin_ring;

static __attribute__((noinline)) void twin(const struct shmd_entry *e, uint64_t ring) {
    const char *parts[3] = {e->text, e->attrs, e->source};
    uint32_t sizes[3] = {e->text_size, e->attrs_size, e->source_size};
    uint64_t n = (RECORD + sizes[0] + sizes[1] + sizes[2] + 7) & ~UINT64_C(7), at = twin_head;
    if (n > ring / 8 - (at & (ring / 8 - 1))) at = (at + ring / 8 - 1) & ~(ring / 8 - 1);
    char *b = twin_ring + (at & (ring - 1));
    uint64_t head[5] = {n | UINT64_C(6) << 32, ++twin_seq, (uint64_t)e->unix_ns, sizes[0] | (uint64_t)sizes[1] << 32, sizes[2] | UINT64_C(1234) << 32};
    memcpy(b, head, sizeof head);
    b += sizeof head;
    for (int i = 0; i < 3; i++) {
        memcpy(b, parts[i], sizes[i]);
        b += sizes[i];
    }
    __atomic_store_n(&twin_head, at + n, __ATOMIC_RELEASE);
}

int main(int argc, char **argv) {
    enum { RING = 1 << 16 };
    if (argc != 5) return 2;
    static struct shmd_worker w;
    static struct shmd_group_info info;
    char *memory = mmap(NULL, 2 * RING + 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    memset(memory, 0, 2 * RING + 4096);
    twin_ring = memory + RING + 4096;
    w.info = &info;
    w.log.info = (struct shmd_worker_log *)(void *)(memory + 4096 - sizeof(struct shmd_worker_log));
    w.log.ring = (word64 *)(void *)(memory + 4096);
    w.log.size = RING;
    resume(&w.log);
    struct shmd_entry e = {.unix_ns = 1700000000000000000, .level = SHMD_INFO, .text = argv[1], .attrs = argv[2], .source = argv[3]};
    e.text_size = length(e.text), e.attrs_size = length(e.attrs), e.source_size = length(e.source);
    long n = atol(argv[4]);
    int64_t best[4] = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
    for (int round = 0; round < 40; round++) /* in turns, and the fastest of each: a busy machine makes all of them slow for a while */
        for (int what = 0; what < 4; what++) {
            int64_t begin = clock_ns(CLOCK_MONOTONIC);
            for (long i = 0; i < n; i++) {
                if (what == 0) twin(&e, RING);
                if (what == 1) shmd_log_entry(&w, &e);
                if (what == 2) shmd_log(&w, SHMD_INFO, argv[1], shmd_str("method", "GET"), shmd_str("path", "/index.html"), shmd_int("status", 200), shmd_int("bytes", 18231));
                if (what == 3) twin_head += (uint64_t)clock_ns(CLOCK_REALTIME) & 0;
            }
            int64_t took = clock_ns(CLOCK_MONOTONIC) - begin;
            if (took < best[what]) best[what] = took;
        }
    for (int what = 0; what < 4; what++) printf("%.2f\n", (double)best[what] / (double)n);
    return 0;
}
