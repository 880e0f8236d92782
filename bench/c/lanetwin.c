// lanetwin.c: the stores and loads of a lane (docs/lane.md) between two threads, one message at a time, without anything else: what its algorithm lets a processor do.
// Each line of output is a variant: min, median and max of 7 runs, in million messages a second. docs/speed.md, "Another processor", has what it showed.
//
//	cc -O2 -march=native -pthread -o /tmp/lanetwin bench/c/lanetwin.c && /tmp/lanetwin
#include "threads.h"

enum { slots = 1024, messages = 4000000, runs = 7, header = 16, mostLag = 256, enough = 64 };

typedef _Atomic uint64_t word;

// What one variant does.
static struct {
    const char *name;
    int stride, payload;
    int tail, sent;      // the producer's stores beside the slot
    int counts;          // the consumer's
    int prefetch;        // lines for writing, 16 slots ahead, and for reading, 4 ahead
    int last_line_first; // of the payload, so that the line with the state is written at once
} v;

static uint8_t *ring;
static struct {
    _Alignas(128) word tail;
    _Alignas(128) word sent;
    _Alignas(128) word head;
    word acked;
    _Alignas(128) word received;
    word ack_count;
} *q;

static uint8_t *slot(uint64_t p) { return ring + p % slots * (uint64_t)v.stride; }

static void release(word *w, uint64_t x) { atomic_store_explicit(w, x, memory_order_release); }

static uint64_t acquire(word *w) { return atomic_load_explicit(w, memory_order_acquire); }

static void *produce(void *unused) {
    static uint8_t from[16][64];
    uint64_t acked = 0;
    pin(0);
    for (uint64_t p = 0; p < messages; p++) {
        if (p - acked >= slots) {
            while (acked = acquire(&q->acked), p - acked >= slots - enough)
                for (int i = 0; i < enough; i++) pause();
        }
        uint8_t *s = slot(p);
        if (v.prefetch)
            for (int i = 0; i < v.stride; i += 64) __builtin_prefetch(slot(p + 16) + i, 1);
        if (v.last_line_first && v.payload > 64 - header) {
            memcpy(s + 64, from[p & 15] + 64 - header, (size_t)(v.payload - (64 - header)));
            memcpy(s + header, from[p & 15], 64 - header);
        } else {
            memcpy(s + header, from[p & 15], (size_t)v.payload);
        }
        release((word *)(s + 8), (uint64_t)v.payload);
        release((word *)s, p + 1);
        if (v.tail) release(&q->tail, p + 1);
        if (v.sent) release(&q->sent, p + 1);
    }
    return unused;
}

static void *consume(void *unused) {
    static uint8_t to[64];
    uint64_t rested = 0;
    int lag = 0;
    pin(1);
    for (uint64_t p = 0; p < messages; p++) {
        uint8_t *s = slot(p);
        if (acquire((word *)s) != p + 1) { // as pace in pkg/shm: it rests until a look finds much
            lag = p - rested <= 1 ? 0 : p - rested > enough ? lag / 2 : lag ? lag * 2 : 4;
            lag = lag > mostLag ? mostLag : lag;
            rested = p;
            for (int i = 0; i < lag; i++) pause();
            while (acquire((word *)s) != p + 1) pause();
        }
        if (v.prefetch)
            for (int i = 0; i < v.stride; i += 64) __builtin_prefetch(slot(p + 4) + i, 0);
        memcpy(to, s + header, acquire((word *)(s + 8)));
        __asm__ volatile("" ::"r"(to) : "memory");
        if (v.counts) {
            release(&q->received, p + 1);
            release(&q->head, p + 1);
        }
        release(&q->acked, p + 1);
        if (v.counts) release(&q->ack_count, p + 1);
    }
    return unused;
}

int main(void) {
    static const __typeof__(v) variants[] = {
        {"128 B a slot, 64 B payload, all stores", 128, 64, 1, 1, 1, 0, 0},
        {"  with prefetches", 128, 64, 1, 1, 1, 1, 0},
        {"  without the consumer's counts", 128, 64, 1, 1, 0, 0, 0},
        {"  without sent", 128, 64, 1, 0, 1, 0, 0},
        {"  without tail", 128, 64, 0, 1, 1, 0, 0},
        {"  without tail and sent", 128, 64, 0, 0, 1, 0, 0},
        {"  the payload's last line first", 128, 64, 1, 1, 1, 0, 1},
        {"  the same without sent", 128, 64, 1, 0, 1, 0, 1},
        {"64 B a slot, 48 B payload, all stores", 64, 48, 1, 1, 1, 0, 0},
        {"  without tail, sent and counts", 64, 48, 0, 0, 0, 0, 0},
    };
    ring = aligned_alloc(4096, slots * 128);
    q = aligned_alloc(4096, 4096);
    if (!ring || !q) return 1;
    for (size_t k = 0; k < sizeof variants / sizeof *variants; k++) {
        double rate[runs];
        memcpy(&v, &variants[k], sizeof v);
        for (int i = 0; i < runs; i++) {
            pthread_t a, b;
            memset(ring, 0, slots * 128);
            memset((void *)q, 0, sizeof *q);
            double begun = now();
            if (pthread_create(&b, 0, consume, 0) || pthread_create(&a, 0, produce, 0)) return 1;
            pthread_join(a, 0);
            pthread_join(b, 0);
            rate[i] = messages / (now() - begun) / 1e6;
        }
        qsort(rate, runs, sizeof *rate, ascending);
        printf("%-42s %6.1f %6.1f %6.1f\n", v.name, rate[0], rate[runs / 2], rate[runs - 1]);
        fflush(stdout);
    }
}
