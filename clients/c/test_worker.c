//go:build ignore
/* The line above keeps the go command from taking this file for cgo. worker_test.go compiles it with shmd.c, runs it with descriptors 3, 4 and 5 a roster, a
 * command and a group segment, and reads in Go what it wrote:
 *
 *   test_worker say            a record of each sort, and a metric of each
 *   test_worker many SEED N    N records of all sizes, the I-th with the fields i and sum
 *   test_worker threads N      N records of each of four threads, which count too
 *   test_worker fork           as say, of which a child that was forked can do nothing
 *   test_worker attach         nothing but attach */
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shmd.h"

#define WANT(condition)                                                        \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

static struct shmd_worker *w;

static char *repeat(const char *what, size_t n) {
    size_t size = strlen(what);
    char *text = malloc(n * size + 1);
    for (size_t i = 0; i < n; i++) memcpy(text + i * size, what, size);
    text[n * size] = 0;
    return text;
}

static void nothing(int number) { (void)number; }

/* waits_long: the longest time is long, and not over at once. */
static void waits_long(void) {
    struct sigaction act = {.sa_handler = nothing};
    struct itimerval soon = {.it_value = {0, 20000}, .it_interval = {0, 20000}};
    struct itimerval never = {.it_value = {0, 0}};
    struct timespec begin, end;
    WANT(!sigaction(SIGALRM, &act, NULL));
    clock_gettime(CLOCK_MONOTONIC, &begin);
    WANT(!setitimer(ITIMER_REAL, &soon, NULL));
    WANT(!shmd_wait_quit(w, INT64_MAX));
    WANT(!setitimer(ITIMER_REAL, &never, NULL));
    clock_gettime(CLOCK_MONOTONIC, &end);
    WANT((end.tv_sec - begin.tv_sec) * 1000000000 + end.tv_nsec - begin.tv_nsec >= 19000000);
}

static void say(void) {
    WANT(!strcmp(shmd_name(w), "c.1") && !getenv("SHMD_FDS"));
    WANT(shmd_ready(w) == 0);
    char *x = repeat("x", 5000), *ue = repeat("\xc3\xbc", 5000);
    WANT(!shmd_log(w, SHMD_DEBUG, "no fields"));
    WANT(!shmd_log(w, SHMD_INFO, "fields", shmd_int("i", -1), shmd_int("least", INT64_MIN), shmd_int("zero", 0), shmd_uint("u", UINT64_MAX), shmd_float("f", 1.5), shmd_float("tenth", 0.1), shmd_float("third", 1 / 3.0),
                   shmd_float("nan", NAN), shmd_float("inf", -INFINITY), shmd_bool("yes", 2), shmd_bool("no", 0), shmd_str("null", NULL),
                   shmd_str("s", "a\"\\\n\x01\xff\xc3\xbc\xed\xa0\x80\xf0\x9f\x98\x80\xe2\x82"), shmd_str("k\"", "")));
    WANT(!shmd_log(w, SHMD_WARNING, "short", shmd_str("long", x)));
    WANT(!shmd_log(w, SHMD_ERROR, ue, shmd_int("i", 1)));
    WANT(!shmd_log(w, SHMD_ERROR, x));
    struct shmd_entry e = {.unix_ns = 1700000000000000001, .level = SHMD_INFO, .text = "made", .attrs = "\"a\":{\"b\":[1,2]}", .source = "f.py:7", .text_size = 4, .attrs_size = 15, .source_size = 6};
    WANT(!shmd_log_entry(w, &e));

    struct shmd_counter *c = shmd_counter(w, "jobs", "", "jobs that are done");
    struct shmd_gauge *g = shmd_gauge(w, "load", "jobs", "jobs at a time");
    struct shmd_histogram *h = shmd_histogram(w, "trip", "nanoseconds", "there and back");
    WANT(c && g && h && shmd_counter(w, "jobs", "", "jobs that are done") == c && shmd_gauge(w, "load", "jobs", "jobs at a time") == g && shmd_histogram(w, "trip", "nanoseconds", "there and back") == h);
    shmd_count(c, 3);
    shmd_count(c, 4);
    shmd_gauge_set(g, 2.5);
    shmd_gauge_add(g, -1);
    for (uint64_t v = 0; v < 40; v++) shmd_observe(h, v);
    for (int e2 = 6; e2 < 64; e2++) shmd_observe(h, UINT64_C(1) << e2), shmd_observe(h, (UINT64_C(1) << e2) + (UINT64_C(3) << (e2 - 2)));
    WANT(!shmd_counter(w, "jobs", "bytes", "") && errno == EEXIST);
    WANT(!shmd_gauge(w, "jobs", "", "jobs that are done") && errno == EEXIST);
    WANT(!shmd_counter(w, "Jobs", "", "") && errno == EINVAL);
    WANT(!shmd_counter(w, "", "", "") && errno == EINVAL);
    WANT(!shmd_counter(w, "a", "1", "") && errno == EINVAL);
    WANT(!shmd_counter(w, x, "", "") && errno == EINVAL);
    WANT(shmd_counter(w, "long", "", ue)); /* its help is cut between characters */
    WANT(!shmd_histogram(w, "more", "", "") && errno == ENOSPC);
    for (int i = 0; i < 6; i++) {
        char name[] = {'c', (char)('0' + i), 0};
        WANT(shmd_counter(w, name, "", ""));
    }
    WANT(!shmd_counter(w, "full", "", "") && errno == ENOSPC);
    shmd_count(NULL, 1);
    shmd_gauge_set(NULL, 1);
    shmd_gauge_add(NULL, 1);
    shmd_observe(NULL, 1);

    shmd_beat(w);
    WANT(!shmd_quit_asked(w) && !shmd_wait_quit(w, 0) && !shmd_wait_quit(w, 1000000));
    waits_long();
    pid_t child = fork();
    if (child == 0) {
        shmd_beat(w);
        shmd_count(c, 1);
        shmd_gauge_set(g, 1);
        shmd_gauge_add(g, 1);
        shmd_observe(h, 1);
        WANT(shmd_ready(w) == -EPERM && shmd_quit_asked(w) == -EPERM && shmd_wait_quit(w, -1) == -EPERM && shmd_log(w, SHMD_INFO, "x") == -EPERM);
        WANT(!shmd_counter(w, "jobs", "", "jobs that are done") && errno == EPERM);
        exit(0);
    }
    int status = -1;
    WANT(waitpid(child, &status, 0) == child && status == 0);
    WANT(!shmd_log(w, SHMD_INFO, "last"));
    free(x);
    free(ue);
}

static uint64_t rnd;
static uint64_t next(void) {
    rnd ^= rnd << 13, rnd ^= rnd >> 7, rnd ^= rnd << 17;
    return rnd;
}

static void many(int n) {
    for (int i = 0; i < n; i++) {
        size_t size = next() % 100 ? next() % 300 : next() % 2100;
        char *text = repeat("y", size);
        uint64_t sum = 0;
        for (size_t k = 0; k < size; k++) sum += (uint64_t)(text[k] = (char)('a' + next() % 26)) * (k + 1);
        WANT(!shmd_log(w, SHMD_INFO, text, shmd_int("i", i), shmd_uint("sum", sum)));
        free(text);
    }
}

static int each;
static void *thread(void *arg) {
    struct shmd_counter *c = shmd_counter(w, "done", "", "");
    struct shmd_gauge *g = shmd_gauge(w, "level", "", "");
    struct shmd_histogram *h = shmd_histogram(w, "took", "", "");
    for (int i = 0; i < each; i++) {
        WANT(!shmd_log(w, SHMD_INFO, "t", shmd_int("g", *(int *)arg), shmd_int("i", i)));
        shmd_count(c, 1);
        shmd_gauge_add(g, 1);
        shmd_observe(h, (uint64_t)i);
        shmd_beat(w);
        WANT(!shmd_quit_asked(w));
    }
    return NULL;
}

int main(int argc, char **argv) {
    char why[300];
    WANT(argc >= 2);
    if (!(w = shmd_attach(why, sizeof why))) {
        puts(why);
        return 3;
    }
    if (!strcmp(argv[1], "say")) say();
    if (!strcmp(argv[1], "many")) {
        rnd = strtoull(argv[2], NULL, 10) | 1;
        many(atoi(argv[3]));
    }
    if (!strcmp(argv[1], "threads")) {
        pthread_t threads[4];
        int numbers[4] = {0, 1, 2, 3};
        each = atoi(argv[2]);
        for (int i = 0; i < 4; i++) WANT(!pthread_create(&threads[i], NULL, thread, &numbers[i]));
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    }
    return 0;
}
