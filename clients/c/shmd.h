/* A worker of shmd in C: shmd.h and shmd.c, the generated shmd_layout.h, and nothing else.
 *
 *     cc -std=gnu11 -O2 -I clients/c -o worker worker.c clients/c/shmd.c -lpthread
 *     cc -std=gnu11 -O2 -fPIC -shared -I clients/c -o libshmd.so clients/c/shmd.c -lpthread       (what clients/python loads)
 *
 * The process must have been started by shmd. It attaches, says that it is ready, does its work, and ends when it is asked to quit:
 *
 *     char why[200];
 *     struct shmd_worker *w = shmd_attach(why, sizeof why);
 *     if (!w) { fprintf(stderr, "%s\n", why); return 1; }
 *     struct shmd_counter *jobs = shmd_counter(w, "jobs", "", "jobs that are done");
 *     shmd_ready(w);
 *     while (!shmd_wait_quit(w, 1000000000)) {
 *         shmd_log(w, SHMD_INFO, "worked", shmd_int("jobs", 3), shmd_str("from", "a to b"));
 *         shmd_count(jobs, 3);
 *     }
 *
 * All functions may be called by any number of threads at once, but for signal handlers: a log has a lock. Text is UTF-8, times are nanoseconds.
 * A child that was forked has no part in the region (the memory is not mapped there): in it nothing here does anything, and what returns an int
 * returns -EPERM.
 *
 * The process may be killed at every instruction. docs/log.md, docs/metrics.md and docs/supervision.md say what the memory has then;
 * test/crashpoint kills it there. */
#ifndef SHMD_H
#define SHMD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#include <initializer_list>
extern "C" {
#endif

struct shmd_worker;

/* shmd_attach makes the process the instance that the environment names (SHMD_FDS, SHMD_WORKER), once. It takes the descriptors that SHMD_FDS names:
 * they are marked close-on-exec and SHMD_FDS is removed, so that children inherit nothing. NULL: it did not, and why says why, cut to size bytes
 * with a NUL. What it returns is valid until the process ends. */
struct shmd_worker *shmd_attach(char *why, size_t size);

/* shmd_name returns the instance's name, such as "parser.2". */
const char *shmd_name(const struct shmd_worker *w);

/* shmd_ready says that the worker is ready, which `ready = "call"` in the configuration waits for. Returns 0 or -EPERM. */
int shmd_ready(struct shmd_worker *w);

/* shmd_quit_asked returns 1 if the worker is asked to quit, and acknowledges it; else 0. It is two loads while nobody asks anything. */
int shmd_quit_asked(struct shmd_worker *w);

/* shmd_wait_quit sleeps until the worker is asked to quit (1, acknowledged), or until timeout_ns are over or a signal was handled (0). Negative: for
 * ever. The worker counts as asleep meanwhile: the watchdog expects nothing. */
int shmd_wait_quit(struct shmd_worker *w, int64_t timeout_ns);

/* shmd_beat tells the watchdog that the worker lives (`watchdog` in the configuration). shmd_quit_asked and shmd_wait_quit do so by themselves
 * when the daemon asks; who computes for longer than the watchdog without these calls it now and then. Logging and counting are no heartbeat. */
void shmd_beat(struct shmd_worker *w);

/* --- Log: records go to a ring in the worker's own pages without a system call, unless the daemon waits for one. --- */

enum shmd_level { SHMD_ERROR = 3, SHMD_WARNING = 4, SHMD_INFO = 6, SHMD_DEBUG = 7 };

/* A field of a record. Made by the functions below; what it points to must live until it was logged. */
enum shmd_field_kind { SHMD_FIELD_END, SHMD_FIELD_INT, SHMD_FIELD_UINT, SHMD_FIELD_FLOAT, SHMD_FIELD_BOOL, SHMD_FIELD_STR };

struct shmd_field {
    const char *key;
    enum shmd_field_kind kind;
    union {
        int64_t i;
        uint64_t u;
        double f;
        const char *s;
    } value;
};

static inline struct shmd_field shmd_int(const char *key, int64_t value) {
    struct shmd_field f;
    f.key = key, f.kind = SHMD_FIELD_INT, f.value.i = value;
    return f;
}

static inline struct shmd_field shmd_uint(const char *key, uint64_t value) {
    struct shmd_field f;
    f.key = key, f.kind = SHMD_FIELD_UINT, f.value.u = value;
    return f;
}

static inline struct shmd_field shmd_float(const char *key, double value) {
    struct shmd_field f;
    f.key = key, f.kind = SHMD_FIELD_FLOAT, f.value.f = value;
    return f;
}

static inline struct shmd_field shmd_bool(const char *key, int value) {
    struct shmd_field f;
    f.key = key, f.kind = SHMD_FIELD_BOOL, f.value.i = value != 0;
    return f;
}

/* shmd_str is a text with a NUL at its end; NULL becomes null. What is no UTF-8 becomes U+FFFD. */
static inline struct shmd_field shmd_str(const char *key, const char *value) {
    struct shmd_field f;
    f.key = key, f.kind = SHMD_FIELD_STR, f.value.s = value;
    return f;
}

static inline struct shmd_field shmd_end(void) {
    struct shmd_field f;
    f.key = NULL, f.kind = SHMD_FIELD_END, f.value.u = 0;
    return f;
}

/* shmd_log(w, level, text, fields…) logs a record, with file and line of the call. A record has an eighth of log_size at most, and 16 KiB; what is larger
 * loses its fields ("cut_bytes" says how much) and then the end of its text. Returns 0; -ENOTSUP if the group has no logs (log_size = 0); -EPERM. */
#define shmd_log(w, level, ...) \
    shmd_log_fields(w, level, __FILE__ ":" SHMD_LINE(__LINE__), SHMD_FIRST_(__VA_ARGS__, 0), SHMD_FIELDS_(SHMD_REST_(__VA_ARGS__, shmd_end())))
#define SHMD_LINE_(line) #line
#define SHMD_LINE(line) SHMD_LINE_(line)
#define SHMD_FIRST_(first, ...) first
#define SHMD_REST_(first, ...) __VA_ARGS__
#ifdef __cplusplus
#define SHMD_FIELDS_(...) std::initializer_list<struct shmd_field>{__VA_ARGS__}.begin()
#else
#define SHMD_FIELDS_(...) ((const struct shmd_field[]){__VA_ARGS__})
#endif
/* fields end with shmd_end(). */
int shmd_log_fields(struct shmd_worker *w, int level, const char *source, const char *text, const struct shmd_field *fields);

/* shmd_log_entry logs a record whose parts are made already: attrs is the inside of a JSON object, such as "a":1,"b":"x"; source is FILE:LINE. Both may be
 * empty. unix_ns 0: now. Errors as shmd_log. */
struct shmd_entry {
    int64_t unix_ns;
    const char *text, *attrs, *source;
    uint32_t text_size, attrs_size, source_size;
    int32_t level;
};
int shmd_log_entry(struct shmd_worker *w, const struct shmd_entry *entry);

/* --- Metrics: shmctl stat and /metrics show them. --- */

/* Each defines a metric, or finds the one that this or the process before defined: a counter and a histogram go on from where they are, a gauge begins
 * at 0. name is lower_snake without unit, unit that of a value ("bytes", "nanoseconds") or "", help a sentence for people. NULL, with errno:
 * EINVAL (name or unit: a to z, 0 to 9 and _, beginning with a letter, 64 and 24 bytes at most), ENOSPC (see `metrics` in the configuration: a histogram takes seven
 * rows, the others one), EEXIST (this process defined the name as something else), EPERM. What is returned is valid until the process ends. */
struct shmd_counter *shmd_counter(struct shmd_worker *w, const char *name, const char *unit, const char *help);
struct shmd_gauge *shmd_gauge(struct shmd_worker *w, const char *name, const char *unit, const char *help);
struct shmd_histogram *shmd_histogram(struct shmd_worker *w, const char *name, const char *unit, const char *help);

/* One atomic addition, or two of a histogram. With NULL for the metric they do nothing, so that a full table needs no care. */
void shmd_count(struct shmd_counter *c, uint64_t n);
void shmd_gauge_set(struct shmd_gauge *g, double value);
void shmd_gauge_add(struct shmd_gauge *g, double value);
void shmd_observe(struct shmd_histogram *h, uint64_t value);

#ifdef __cplusplus
}
#endif
#endif
