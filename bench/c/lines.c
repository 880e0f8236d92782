// lines.c: how many messages a second one thread hands to another, by the lines of memory that it writes for each, in their order. A processor makes stores visible in
// their order, and has room for few that wait: a line that the other thread has read has to come back before it can be written, and how many of those are on their way at
// once depends on what is written between them. Each line of output is a pattern: min, median and max of 5 runs, in million messages a second. docs/speed.md, "Another
// processor", has what it showed.
//
//	cc -O2 -march=native -pthread -o /tmp/lines bench/c/lines.c && /tmp/lines
//
// In a pattern M is the message: 48 bytes in its line, E its end, 16 bytes in the next line, T the position behind it, which the other thread looks at; 0 to 8 are words in lines
// that nobody else uses, as a stack's or a counter's. p before it: the message's lines are asked for 16 messages ahead (PREFETCHW).
#include "threads.h"

enum { slots = 1024, stride = 128, messages = 4000000, runs = 5, enough = 32, most_lag = 256 };

#define PATTERNS(X) X(M) X(MT) X(0MT) X(pMT) X(01MT) X(0123MT) X(01234567MT) X(012345678MT) X(EM) X(EMT) X(MEMT) X(EMT0) X(p01EMT) X(01EMT0) X(0121EMT0) X(010EM2T0)

static uint8_t *ring;
static struct {
    _Alignas(128) _Atomic uint64_t tail;
    _Alignas(128) _Atomic uint64_t head;
} *q;
static _Alignas(4096) volatile uint64_t own[9][8];

static void words(uint8_t *to, int n, uint64_t x) {
    for (int i = 0; i < n; i++) ((volatile uint64_t *)to)[i] = x;
}

// One pattern: the string is known when this is compiled, so nothing of it is left but the stores.
__attribute__((always_inline)) static inline void produce(const char *pattern, size_t length) {
    uint64_t head = 0;
    pin(0);
    for (uint64_t p = 0; p < messages; p++) {
        while (p - head >= slots - 16) {
            head = atomic_load_explicit(&q->head, memory_order_acquire);
            if (p - head >= slots - 16) pause();
        }
        uint8_t *s = ring + p % slots * stride;
#pragma GCC unroll 16
        for (size_t i = 0; i < length; i++) {
            if (pattern[i] == 'M') words(s, 6, p);
            else if (pattern[i] == 'E') words(s + 64, 2, p);
            else if (pattern[i] == 'T') atomic_store_explicit(&q->tail, p + 1, memory_order_release);
            else if (pattern[i] == 'p') __builtin_prefetch(ring + (p + 16) % slots * stride, 1), __builtin_prefetch(ring + (p + 16) % slots * stride + 64, 1);
            else own[pattern[i] - '0'][0] = p;
        }
        if (pattern[length - 1] == 'M' && p % 32 == 31) atomic_store_explicit(&q->tail, p + 1, memory_order_release);
    }
}

#define PRODUCER(x) \
    static void *produce_##x(void *unused) { \
        produce(#x, sizeof #x - 1); \
        return unused; \
    }
PATTERNS(PRODUCER)

// It rests between two looks until much has come meanwhile, as pace in pkg/shm.
static void *consume(void *unused) {
    uint64_t tail = 0, rested = 0, got = 0;
    int lag = 0;
    pin(1);
    for (uint64_t p = 0; p < messages; p++) {
        if (p == tail) {
            uint64_t run = p - rested;
            int looks = 0;
            lag = run <= 1 ? 0 : run > 2 * enough ? lag / 2 : lag;
            rested = p;
            for (int i = 0; i < lag; i++) pause();
            while (tail = atomic_load_explicit(&q->tail, memory_order_acquire), tail == p) pause(), looks++;
            if (!looks && run < enough) lag = lag ? lag * 2 : 4;
            if (lag > most_lag) lag = most_lag;
        }
        for (int i = 0; i < 10; i++) got += ((volatile uint64_t *)(ring + p % slots * stride))[i];
        atomic_store_explicit(&q->head, p + 1, memory_order_release);
    }
    own[8][7] = got;
    return unused;
}

int main(void) {
#define VARIANT(x) {#x, produce_##x},
    static const struct {
        const char *name;
        void *(*produce)(void *);
    } variants[] = {PATTERNS(VARIANT)};
    ring = aligned_alloc(4096, slots * stride);
    q = aligned_alloc(4096, 4096);
    if (!ring || !q) return 1;
    for (size_t k = 0; k < sizeof variants / sizeof *variants; k++) {
        double rate[runs];
        for (int i = 0; i < runs; i++) {
            pthread_t a, b;
            memset(ring, 0, slots * stride);
            memset((void *)q, 0, sizeof *q);
            double begun = now();
            if (pthread_create(&b, 0, consume, 0) || pthread_create(&a, 0, variants[k].produce, 0)) return 1;
            pthread_join(a, 0);
            pthread_join(b, 0);
            rate[i] = messages / (now() - begun) / 1e6;
        }
        qsort(rate, runs, sizeof *rate, ascending);
        printf("%-12s %6.1f %6.1f %6.1f\n", variants[k].name, rate[0], rate[runs / 2], rate[runs - 1]);
        fflush(stdout);
    }
}
