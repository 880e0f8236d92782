/* A worker of shmd in C: it says that it is ready, works, logs, counts, and quits when asked to. From the root of the repository:
 *
 *     cc -std=gnu11 -O2 -I clients/c -o bin/cworker examples/c/worker.c clients/c/shmd.c -lpthread
 *     bin/shmd -c examples/c/shmd.toml
 *
 * clients/c/shmd.h says what there is. */
#include <stdio.h>

#include "shmd.h"

/* work is one piece of work: put your own here. */
static uint64_t work(void) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 100000; i++) sum += i * i;
    return sum;
}

int main(void) {
    char why[200];
    struct shmd_worker *w = shmd_attach(why, sizeof why);
    if (!w) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    struct shmd_counter *done = shmd_counter(w, "jobs", "", "pieces of work that are done");
    shmd_ready(w);
    shmd_log(w, SHMD_INFO, "ready", shmd_str("worker", shmd_name(w)));
    while (!shmd_quit_asked(w)) {
        uint64_t result = work();
        shmd_count(done, 1);
        shmd_log(w, SHMD_DEBUG, "worked", shmd_uint("result", result));
        shmd_wait_quit(w, 1000000000); /* for a second: sleeps, and ends at once when it is asked to quit */
    }
    shmd_log(w, SHMD_INFO, "quits");
    return 0;
}
