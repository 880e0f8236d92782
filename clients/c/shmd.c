//go:build ignore
/* The line above keeps the go command from taking this file for cgo. */
/* The worker's part of shmd in C: see shmd.h. What lies in the memory is in shmd_layout.h; letters in brackets are those of docs/log.md, docs/metrics.md and
 * pkg/shm/beat.go, whose stores these are. Order is that of C11: a plain `=` or a plain read of an SHMD_ATOMIC field is sequentially consistent. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "shmd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shmd_layout.h"

enum { FIRST_FD = 3, CHUNKS = 8, MAX_TEXT = 16 << 10, MAX_SOURCE = 256, CUT_ROOM = 64, BUCKETS_A_ROW = 31, BUCKET_ROWS = 6 };
enum { RECORD = sizeof(struct shmd_worker_record) };
#define LOG_MIN (UINT64_C(16) << 10)
#define LOG_MAX (UINT64_C(1) << 30)

typedef SHMD_ATOMIC(uint32_t) word32;
typedef SHMD_ATOMIC(uint64_t) word64;

struct segment {
    char *base;
    size_t size;
};

/* The instance's log, and what its writer remembers of it: that is never read again from the memory. */
struct log {
    struct shmd_worker_log *info; /* NULL: there is none */
    word64 *ring;
    uint64_t size, head, seq;
    uint64_t end;  /* of the chunk that head lies in; head itself if that chunk is still to be begun */
    uint64_t rung; /* head when the daemon was rung last because the ring fills */
    uint64_t record[(RECORD + MAX_TEXT) / 8]; /* where a record is put together */
};

struct shmd_worker {
    char name[sizeof(((struct shmd_worker_row *)0)->name) + 1];
    uint32_t pid, index, instance;
    struct segment roster, command, group;
    struct shmd_group_info *info;
    struct shmd_instance_page *page;
    struct shmd_command_row *row;
    struct shmd_metric_row *metrics;
    uint32_t metric_rows;
    pthread_mutex_t log_lock, metrics_lock;
    struct log log;
    char *why; /* while it attaches */
    size_t why_size;
};

/* In a forked child the memory is not mapped. */
static atomic_bool forked;
static void in_child(void) { atomic_store(&forked, true); }
static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

static int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wake(word32 *bell) {
    atomic_fetch_add(bell, 1);
    syscall(SYS_futex, bell, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}

/* fence_loads orders the loads before it before those after it, fence_stores the stores. The thread sanitizer knows no fences; in what it is shown nobody
 * overwrites what is read. */
static void fence_loads(void) {
#ifndef __SANITIZE_THREAD__
    atomic_thread_fence(memory_order_acquire);
#endif
}

static void fence_stores(void) {
#ifndef __SANITIZE_THREAD__
    atomic_thread_fence(memory_order_release);
#endif
}

/* --- Attaching --- */

static bool refuse(struct shmd_worker *w, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(w->why, w->why_size, format, list);
    va_end(list);
    return false;
}

/* at returns the struct at an offset, which was read from the memory and is not trusted; NULL if it does not lie in the segment. */
static void *at(struct segment s, uint64_t offset, uint64_t need) {
    return offset % 8 || offset > s.size || need > s.size - offset ? NULL : s.base + offset;
}

/* table returns the first of count structs that lie stride bytes apart. */
static void *table(struct segment s, uint64_t offset, uint64_t count, uint64_t stride) {
    return at(s, offset, count * stride); /* both have 32 bits or less */
}

static bool map(struct shmd_worker *w, int fd, const char *name, uint32_t kind, int prot, struct segment *s) {
    struct stat st;
    if (fstat(fd, &st)) return refuse(w, "descriptor %d, segment \"%s\": %s", fd, name, strerror(errno));
    struct shmd_segment_header *h;
    if ((size_t)st.st_size < sizeof *h) return refuse(w, "descriptor %d, segment \"%s\": %lld bytes are too few", fd, name, (long long)st.st_size);
    h = mmap(NULL, (size_t)st.st_size, prot, MAP_SHARED, fd, 0);
    if (h == MAP_FAILED) return refuse(w, "descriptor %d, segment \"%s\": mmap: %s", fd, name, strerror(errno));
    s->base = (char *)h, s->size = (size_t)st.st_size;
    if (madvise(h, s->size, MADV_DONTFORK)) return refuse(w, "segment \"%s\": madvise: %s", name, strerror(errno));
    if (atomic_load_explicit(&h->magic, memory_order_acquire) != SHMD_MAGIC) /* pairs with the creator's release */
        return refuse(w, "descriptor %d, segment \"%s\": no segment of shmd, or not ready yet", fd, name);
    unsigned major = h->layout_major, minor = h->layout_minor;
    unsigned long long unknown = h->incompat & ~SHMD_KNOWN_INCOMPAT;
    if (major != SHMD_LAYOUT_MAJOR || unknown) /* a newer minor version is fine */
        return refuse(w, "segment \"%s\" has layout %u.%u with incompatible features %#llx, this program knows %d.%d: build it with the shmd_layout.h of the shmd that runs",
                      name, major, minor, unknown, SHMD_LAYOUT_MAJOR, SHMD_LAYOUT_MINOR);
    if (h->kind != kind) return refuse(w, "segment \"%s\" is of kind %u, not %u", name, (unsigned)h->kind, kind);
    return true;
}

/* take maps the segments that SHMD_FDS names, and keeps children from inheriting any. */
static bool take(struct shmd_worker *w, const char *names) {
    int fd = FIRST_FD;
    for (const char *name = names;; fd++) {
        size_t n = strcspn(name, ",");
        if (fcntl(fd, F_SETFD, FD_CLOEXEC)) return refuse(w, "descriptor %d, which SHMD_FDS names: %s", fd, strerror(errno));
        if (n == 6 && !strncmp(name, "roster", n) && !map(w, fd, "roster", SHMD_KIND_ROSTER, PROT_READ, &w->roster)) return false;
        if (n == 7 && !strncmp(name, "command", n) && !map(w, fd, "command", SHMD_KIND_COMMAND, PROT_READ, &w->command)) return false;
        if (n == 5 && !strncmp(name, "group", n) && !map(w, fd, "group", SHMD_KIND_GROUP, PROT_READ | PROT_WRITE, &w->group)) return false;
        if (!name[n]) break;
        name += n + 1;
    }
    if (!w->roster.base || !w->command.base || !w->group.base) return refuse(w, "SHMD_FDS names no roster, command or group: start the program through shmd");
    return true;
}

/* find looks for the instance's row in the roster. The daemon may be writing rows: one is read until its seq is even and stays. */
static bool find(struct shmd_worker *w) {
    struct shmd_roster_info *info = at(w->roster, SHMD_ROSTER_INFO_OFFSET, sizeof *info);
    uint32_t count = info ? info->worker_count : 0;
    struct shmd_worker_row *rows = info ? table(w->roster, info->worker_offset, count, sizeof *rows) : NULL;
    if (!rows) return refuse(w, "the roster's table of workers does not lie in it");
    for (uint32_t i = 0; i < count; i++) {
        for (int try = 0; try < 1000000; try++) {
            uint32_t seq = rows[i].seq;
            bool mine = !strncmp(rows[i].name, w->name, sizeof rows[i].name) && rows[i].state != SHMD_STATE_GONE;
            uint32_t instance = rows[i].instance;
            fence_loads();
            if (seq % 2 || rows[i].seq != seq) continue;
            if (!mine) break;
            w->index = i, w->instance = instance;
            return true;
        }
    }
    return refuse(w, "the roster has no worker \"%s\"", w->name);
}

/* places finds what belongs to the instance in the group and command segments. */
static bool places(struct shmd_worker *w) {
    struct shmd_command_info *ci = at(w->command, SHMD_COMMAND_INFO_OFFSET, sizeof *ci);
    struct shmd_group_info *gi = w->info = at(w->group, SHMD_GROUP_INFO_OFFSET, sizeof *gi);
    if (!ci || !gi || w->index >= ci->worker_cap || w->instance >= gi->instance_cap || w->instance >= gi->instance_count)
        return refuse(w, "the roster's row %u, instance %u, does not fit the command and group segments", w->index, w->instance);
    uint64_t stride = gi->instance_stride, offset = gi->instance_offset;
    w->row = at(w->command, ci->worker_offset + (uint64_t)w->index * sizeof *w->row, sizeof *w->row);
    w->page = stride < sizeof *w->page || stride % 64 ? NULL : at(w->group, offset + w->instance * stride, sizeof *w->page);
    if (!w->row || !w->page) return refuse(w, "the row or the page of instance %u does not lie in its segment", w->instance);

    uint64_t metrics = gi->metric_offset;
    if ((w->metric_rows = gi->metric_rows)) {
        uint64_t bytes = (uint64_t)w->metric_rows * sizeof *w->metrics; /* 40 bits */
        w->metrics = w->instance > w->group.size / bytes ? NULL : at(w->group, metrics + w->instance * bytes, bytes);
        if (!w->metrics) return refuse(w, "the metric table of instance %u does not lie in the group segment", w->instance);
    }
    uint64_t log_stride = gi->log_stride, logs = gi->log_offset, size = gi->log_size;
    if (!size) return true;
    bool good = size >= LOG_MIN && size <= LOG_MAX && !(size & (size - 1)) && log_stride >= sizeof *w->log.info + size && log_stride % 64 == 0;
    w->log.info = good ? at(w->group, logs + w->instance * log_stride, log_stride) : NULL;
    if (!w->log.info) return refuse(w, "the log of instance %u, %llu bytes, does not lie in the group segment", w->instance, (unsigned long long)size);
    w->log.ring = (word64 *)(void *)(w->log.info + 1);
    w->log.size = size;
    return true;
}

static void resume(struct log *l);

struct shmd_worker *shmd_attach(char *why, size_t size) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const char *fds = getenv("SHMD_FDS"), *name = getenv("SHMD_WORKER");
    struct shmd_worker *w = calloc(1, sizeof *w);
    if (!w) {
        snprintf(why, size, "%s", strerror(errno));
        return NULL;
    }
    w->why = why, w->why_size = size;
    w->pid = (uint32_t)getpid();
    pthread_mutex_init(&w->log_lock, NULL);
    pthread_mutex_init(&w->metrics_lock, NULL);
    pthread_once(&once, watch_forks);
    bool good;
    if (!fds || !name)
        good = refuse(w, "start the program through shmd: SHMD_FDS or SHMD_WORKER is not set");
    else if (strlen(name) >= sizeof w->name)
        good = refuse(w, "SHMD_WORKER is too long: \"%s\"", name);
    else {
        strcpy(w->name, name);
        good = take(w, fds);
        unsetenv("SHMD_FDS");
        good = good && find(w) && places(w);
    }
    uint32_t nobody = 0;
    if (good && !atomic_compare_exchange_strong(&w->page->attached_pid, &nobody, w->pid))
        good = refuse(w, "process %u is already attached as \"%s\"", nobody, w->name);
    if (!good) {
        struct segment *all[] = {&w->roster, &w->command, &w->group};
        for (int i = 0; i < 3; i++)
            if (all[i]->base) munmap(all[i]->base, all[i]->size);
        free(w);
        return NULL;
    }
    if (w->log.info) resume(&w->log);
    shmd_beat(w);
    return w;
}

const char *shmd_name(const struct shmd_worker *w) { return w->name; }

/* --- Ready, quit, heartbeat --- */

int shmd_ready(struct shmd_worker *w) {
    if (forked) return -EPERM;
    w->page->ready_ns = (uint64_t)clock_ns(CLOCK_MONOTONIC);
    w->page->ready = 1;
    wake(&w->info->bell);
    return 0;
}

void shmd_beat(struct shmd_worker *w) {
    if (forked) return;
    uint32_t ask = w->page->ask;
    w->page->heartbeat_ns = (uint64_t)clock_ns(CLOCK_MONOTONIC);
    if (atomic_exchange(&w->page->answered, ask) == ask) return; /* another thread was faster, or nobody asks */
    if (ask & 1) wake(&w->info->bell);
}

/* answer gives the heartbeat that the daemon has asked for. */
static void answer(struct shmd_worker *w) {
    if (w->page->ask != w->page->answered) shmd_beat(w); /* D of beat.go */
}

/* asked acknowledges the quit flag, the low byte of the word. A stop of the group or region sets it too. */
static int asked(struct shmd_worker *w, uint32_t word) {
    if (!(word & 0xff)) return 0;
    uint64_t never = 0;
    if (!w->page->quit_seen_ns) atomic_compare_exchange_strong(&w->page->quit_seen_ns, &never, (uint64_t)clock_ns(CLOCK_MONOTONIC));
    return 1;
}

int shmd_quit_asked(struct shmd_worker *w) {
    if (forked) return -EPERM;
    answer(w);
    return asked(w, w->row->quit);
}

int shmd_wait_quit(struct shmd_worker *w, int64_t timeout_ns) {
    if (forked) return -EPERM;
    int64_t now = clock_ns(CLOCK_MONOTONIC), end = timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns; /* unless it is negative */
    uint32_t word;
    w->page->asleep++;
    while (!((word = w->row->quit) & 0xff)) {
        int64_t rest = timeout_ns < 0 ? 0 : end - clock_ns(CLOCK_MONOTONIC);
        if (rest < 0 || (timeout_ns >= 0 && rest == 0)) break;
        struct timespec t = {(time_t)(rest / 1000000000), (long)(rest % 1000000000)};
        if (syscall(SYS_futex, &w->row->quit, FUTEX_WAIT, word, timeout_ns < 0 ? NULL : &t, NULL, 0) && errno == EINTR) break;
    }
    w->page->asleep--; /* C of beat.go */
    answer(w);
    return asked(w, w->row->quit);
}

/* --- Log --- */

static word64 *ring_word(struct log *l, uint64_t position) { return &l->ring[(position & (l->size - 1)) / 8]; }

static uint64_t peek(struct log *l, uint64_t position) { return atomic_load_explicit(ring_word(l, position), memory_order_relaxed); }

/* resume goes on behind the last complete record, and numbers on: as LogWriter's Resume. Where the memory makes no sense it goes on at the next chunk. */
static void resume(struct log *l) {
    uint64_t chunk = l->size / CHUNKS, limit = l->info->limit;
    l->head = l->info->head;
    l->end = (l->head + chunk - 1) & ~(chunk - 1);
    bool good = l->head % 8 == 0;
    if (limit != l->end && limit != l->end + chunk) { /* the latter: the last one died after A, before its record was there */
        good = false;
        l->info->limit = l->end;
    }
    for (uint64_t p = (l->head - 1) & ~(chunk - 1); good && l->head && p != l->head;) { /* the chunk of the last record */
        uint64_t n = (uint32_t)peek(l, p), left = chunk - (p & (chunk - 1)), text = peek(l, p + 24);
        if (n == 0 && left <= l->head - p) {
            p += left;
            continue;
        }
        good = n >= RECORD && n % 8 == 0 && n <= left && n <= l->head - p;
        uint64_t body = (uint32_t)text + (text >> 32) + (uint32_t)peek(l, p + 32);
        if (!(good = good && body <= n - RECORD && body <= MAX_TEXT)) break;
        l->seq = peek(l, p + 8);
        p += n;
    }
    if (!good) {
        l->head = l->end;
        l->info->head = l->head;
    }
    l->rung = l->head;
}

/* publish appends the record of n bytes, a multiple of 8, that was put together. Returns whether the ring has filled half since the daemon was rung. */
static bool publish(struct log *l, uint64_t n) {
    uint64_t position = l->head;
    if (n > l->end - position) {
        if (l->end != position) {
            atomic_store_explicit(ring_word(l, position), 0, memory_order_relaxed); /* bytes is 0: the rest of the chunk is empty */
            position = l->end;
        }
        l->end += l->size / CHUNKS;
        atomic_store_explicit(&l->info->limit, l->end, memory_order_release); /* A */
        fence_stores();                                                       /* C */
    }
    l->record[1] = ++l->seq;
    word64 *to = ring_word(l, position); /* a record lies within one chunk */
    for (uint64_t i = 0; i < n / 8; i++) atomic_store_explicit(&to[i], l->record[i], memory_order_relaxed);
    l->head = position + n;
    l->info->head = l->head; /* B; sequentially consistent, as the load of log_nap [D] that follows it */
    if (l->head - l->rung <= l->size / 2) return false;
    l->rung = l->head;
    return true;
}

/* What goes into a record behind its head. What has no room is counted in size all the same. */
struct body {
    char *to;
    size_t room, size;
};

static void add(struct body *b, const char *bytes, size_t n) {
    if (b->size <= b->room && n <= b->room - b->size) memcpy(b->to + b->size, bytes, n);
    b->size += n;
}

/* rune returns the bytes of the UTF-8 character at s, 0 if it is none. Every byte that is looked at comes behind one that is no NUL. */
static size_t rune(const unsigned char *s) {
    if (s[0] < 0x80) return 1;
    size_t n = s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool beyond = (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf4 && s[1] >= 0x90); /* surrogates; above U+10FFFF */
    return overlong || beyond ? 0 : n;
}

static void add_string(struct body *b, const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    char escape[8];
    add(b, "\"", 1);
    while (*s) {
        size_t n = 0;
        while (s[n] >= ' ' && s[n] < 0x80 && s[n] != '"' && s[n] != '\\') n++; /* most of most texts */
        add(b, (const char *)s, n);
        if (!*(s += n)) break;
        n = rune(s);
        if (n == 0 || *s < ' ') {
            add(b, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", n ? *s : 0xfffdu));
            n = 1;
        } else {
            if (*s == '"' || *s == '\\') add(b, "\\", 1);
            add(b, (const char *)s, n);
        }
        s += n;
    }
    add(b, "\"", 1);
}

static void add_number(struct body *b, uint64_t n, bool negative) {
    char digits[24];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + n % 10);
    while (n /= 10);
    if (negative) digits[--at] = '-';
    add(b, digits + at, sizeof digits - at);
}

static void add_float(struct body *b, double v) {
    char text[40];
    if (!isfinite(v)) {
        add_string(b, isnan(v) ? "NaN" : v > 0 ? "+Inf" : "-Inf");
        return;
    }
    int n = snprintf(text, sizeof text, "%.15g", v);
    if (strtod(text, NULL) != v) n = snprintf(text, sizeof text, "%.17g", v);
    for (int i = 0, point = 0; i < n; i++) { /* the locale's decimal point, whatever bytes it has */
        bool part = strchr("+-0123456789eE", text[i]) != NULL;
        if (part) add(b, &text[i], 1);
        if (!part && !point++) add(b, ".", 1);
    }
}

static void add_fields(struct body *b, const struct shmd_field *f) {
    for (const struct shmd_field *first = f; f->kind != SHMD_FIELD_END; f++) {
        if (f != first) add(b, ",", 1);
        add_string(b, f->key ? f->key : "");
        add(b, ":", 1);
        switch (f->kind) {
        case SHMD_FIELD_INT: add_number(b, f->value.i < 0 ? -(uint64_t)f->value.i : (uint64_t)f->value.i, f->value.i < 0); break;
        case SHMD_FIELD_UINT: add_number(b, f->value.u, false); break;
        case SHMD_FIELD_FLOAT: add_float(b, f->value.f); break;
        case SHMD_FIELD_BOOL: f->value.i ? add(b, "true", 4) : add(b, "false", 5); break;
        case SHMD_FIELD_STR:
            if (f->value.s) {
                add_string(b, f->value.s);
                break;
            } /* fall through */
        default: add(b, "null", 4);
        }
    }
}

/* whole returns the length of text up to n bytes, without a part of a character at its end. */
static size_t whole(const char *text, size_t size, size_t n) {
    if (size <= n) return size;
    while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80) n--;
    return n;
}

/* record puts a record together and appends it. Its attributes are e's, or made of fields if that is not NULL. */
static int record(struct shmd_worker *w, const struct shmd_entry *e, const struct shmd_field *fields) {
    struct log *l = &w->log;
    if (forked) return -EPERM;
    if (!l->info) return -ENOTSUP;
    int64_t unix_ns = e->unix_ns ? e->unix_ns : clock_ns(CLOCK_REALTIME);
    pthread_mutex_lock(&w->log_lock);
    uint64_t most = l->size / CHUNKS - RECORD;
    if (most > MAX_TEXT) most = MAX_TEXT;
    size_t text = e->text_size, source = e->source_size;
    struct body b = {(char *)(l->record + RECORD / 8), most, 0};
    add(&b, e->text, text);
    fields ? add_fields(&b, fields) : add(&b, e->attrs, e->attrs_size);
    size_t attrs = b.size - text;
    if (b.size + source > most) { /* without the attributes; and if need be with a part of the text */
        char cut[CUT_ROOM];
        if (source > MAX_SOURCE) source = 0;
        size_t missing = attrs;
        text = whole(e->text, text, most - source - CUT_ROOM);
        missing += e->text_size - text;
        b.size = 0;
        add(&b, e->text, text);
        add(&b, cut, attrs = (size_t)snprintf(cut, sizeof cut, "\"cut_bytes\":%zu", missing));
    }
    add(&b, e->source, source);
    uint64_t n = (RECORD + b.size + 7) & ~UINT64_C(7);
    memset(b.to + b.size, 0, n - RECORD - b.size);
    l->record[0] = n | (uint64_t)(uint32_t)e->level << 32;
    l->record[2] = (uint64_t)unix_ns;
    l->record[3] = text | (uint64_t)attrs << 32;
    l->record[4] = source | (uint64_t)w->pid << 32;
    bool fills = publish(l, n);
    pthread_mutex_unlock(&w->log_lock);

    uint32_t nap = w->info->log_nap; /* D */
    if (nap == SHMD_LOG_NAP_SLEEPS || (nap == SHMD_LOG_NAP_NAPS && fills))
        if (atomic_compare_exchange_strong(&w->info->log_nap, &nap, SHMD_LOG_NAP_AWAKE)) wake(&w->info->log_bell);
    return 0;
}

int shmd_log_entry(struct shmd_worker *w, const struct shmd_entry *entry) { return record(w, entry, NULL); }

static uint32_t length(const char *text) {
    size_t n = strlen(text);
    return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

int shmd_log_fields(struct shmd_worker *w, int level, const char *source, const char *text, const struct shmd_field *fields) {
    const char *file = strrchr(source, '/');
    while (file && file > source && file[-1] != '/') file--; /* the last directory tells the package */
    struct shmd_entry e = {.text = text ? text : "", .source = file ? file : source, .level = level};
    e.text_size = length(e.text), e.source_size = length(e.source);
    return record(w, &e, fields);
}

/* --- Metrics --- */

static bool metric_word(const char *s, size_t most) {
    for (size_t i = 0; s[i]; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (i > 0 && ((s[i] >= '0' && s[i] <= '9') || s[i] == '_')))) return false;
    return *s && strlen(s) <= most;
}

static struct shmd_metric_row *define(struct shmd_worker *w, uint32_t kind, const char *name, const char *unit, const char *help) {
    struct shmd_metric_row says = {.kind = kind};
    if (forked) {
        errno = EPERM;
        return NULL;
    }
    if (!metric_word(name, sizeof says.name) || (*unit && !metric_word(unit, sizeof says.unit))) {
        errno = EINVAL;
        return NULL;
    }
    memcpy(says.name, name, strlen(name)); /* a text that fills its field has no NUL */
    memcpy(says.unit, unit, strlen(unit));
    memcpy(says.help, help, whole(help, strlen(help), sizeof says.help));
    uint32_t more = kind == SHMD_METRIC_KIND_HISTOGRAM ? BUCKET_ROWS : 0, i = 0;
    struct shmd_metric_row *r = NULL;
    int error = 0;
    pthread_mutex_lock(&w->metrics_lock);
    while (i < w->metric_rows && (r = &w->metrics[i])->state == SHMD_METRIC_STATE_PUBLISHED) {
        uint32_t rows = r->kind == SHMD_METRIC_KIND_HISTOGRAM ? r->rows : 0;
        if (rows > BUCKET_ROWS) rows = BUCKET_ROWS;
        if (rows > w->metric_rows - i - 1) rows = w->metric_rows - i - 1;
        bool named = !memcmp(r->name, says.name, sizeof says.name);
        if (named && r->kind == kind && rows == more && !memcmp(r->unit, says.unit, sizeof says.unit) && !memcmp(r->help, says.help, sizeof says.help)) {
            if (kind == SHMD_METRIC_KIND_GAUGE && r->owner != w->pid) r->value = 0; /* before it has an owner, and so before anybody believes it */
            r->owner = w->pid;
            goto out;
        }
        if (named && r->owner == w->pid) {
            error = EEXIST;
            goto out;
        }
        i += 1 + rows;
    }
    if (i >= w->metric_rows || more > w->metric_rows - i - 1) {
        error = ENOSPC;
        goto out;
    }
    r = &w->metrics[i];
    for (uint32_t k = 1; k <= more; k++) {
        struct shmd_metric_buckets *b = (void *)&r[k];
        for (int j = 0; j < BUCKETS_A_ROW; j++) (&b->first)[j] = 0;
        b->state = SHMD_METRIC_STATE_BUCKETS;
    }
    r->kind = kind;
    r->value = 0;
    r->owner = w->pid;
    r->rows = more;
    memcpy(r->name, says.name, sizeof says.name);
    memcpy(r->unit, says.unit, sizeof says.unit);
    memcpy(r->help, says.help, sizeof says.help);
    r->state = SHMD_METRIC_STATE_PUBLISHED; /* P */
out:
    pthread_mutex_unlock(&w->metrics_lock);
    if (error) errno = error;
    return error ? NULL : r;
}

struct shmd_counter *shmd_counter(struct shmd_worker *w, const char *name, const char *unit, const char *help) {
    return (struct shmd_counter *)define(w, SHMD_METRIC_KIND_COUNTER, name, unit, help);
}

struct shmd_gauge *shmd_gauge(struct shmd_worker *w, const char *name, const char *unit, const char *help) {
    return (struct shmd_gauge *)define(w, SHMD_METRIC_KIND_GAUGE, name, unit, help);
}

struct shmd_histogram *shmd_histogram(struct shmd_worker *w, const char *name, const char *unit, const char *help) {
    return (struct shmd_histogram *)define(w, SHMD_METRIC_KIND_HISTOGRAM, name, unit, help);
}

void shmd_count(struct shmd_counter *c, uint64_t n) {
    if (c && !forked) atomic_fetch_add_explicit(&((struct shmd_metric_row *)c)->value, n, memory_order_relaxed);
}

static uint64_t bits(double v) {
    uint64_t b;
    memcpy(&b, &v, sizeof b);
    return b;
}

void shmd_gauge_set(struct shmd_gauge *g, double v) {
    if (g && !forked) ((struct shmd_metric_row *)g)->value = bits(v);
}

void shmd_gauge_add(struct shmd_gauge *g, double v) {
    if (!g || forked) return;
    word64 *value = &((struct shmd_metric_row *)g)->value;
    uint64_t old = *value;
    double sum;
    do {
        memcpy(&sum, &old, sizeof sum);
        sum += v;
    } while (!atomic_compare_exchange_weak(value, &old, bits(sum)));
}

/* bucket returns the bucket that counts v: docs/metrics.md. */
static unsigned bucket(uint64_t v) {
    if (v < 4) return (unsigned)v;
    unsigned e = 63 - (unsigned)__builtin_clzll(v), b = (e - 1) * 4 + ((v >> (e - 2)) & 3);
    return b < BUCKETS_A_ROW * BUCKET_ROWS ? b : BUCKETS_A_ROW * BUCKET_ROWS - 1;
}

void shmd_observe(struct shmd_histogram *h, uint64_t v) {
    if (!h || forked) return;
    struct shmd_metric_row *r = (struct shmd_metric_row *)h;
    unsigned b = bucket(v);
    struct shmd_metric_buckets *row = (void *)&r[1 + b / BUCKETS_A_ROW];
    atomic_fetch_add_explicit(&(&row->first)[b % BUCKETS_A_ROW], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&r->value, v, memory_order_relaxed);
}
