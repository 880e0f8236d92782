/* A worker for clients_test.go: see there. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shmd.h"

int main(int argc, char **argv) {
    char why[200], text[400];
    const char *mode = argc > 1 ? argv[1] : "";
    struct shmd_worker *w = shmd_attach(why, sizeof why);
    if (!w) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    struct shmd_counter *records = shmd_counter(w, "records", "", "records that were logged");
    struct shmd_gauge *load = shmd_gauge(w, "load", "percent", "made up");
    struct shmd_histogram *size = shmd_histogram(w, "size", "bytes", "of a record's text");
    shmd_ready(w);
    shmd_log(w, SHMD_WARNING, "begins", shmd_str("mode", mode), shmd_bool("ready", 1), shmd_float("half", 0.5), shmd_str("umlaut", "\xc3\xbc"));
    if (!strcmp(mode, "stream"))
        for (int n = 0; !shmd_wait_quit(w, 100000); n++) {
            int k = snprintf(text, sizeof text, "record %d ", n);
            memset(text + k, 'a' + n % 26, (size_t)(n % 300));
            text[k + n % 300] = 0;
            shmd_log(w, SHMD_INFO, text, shmd_int("n", n), shmd_int("square", (int64_t)n * n));
            shmd_count(records, 1);
            shmd_gauge_set(load, 12.5);
            shmd_observe(size, strlen(text));
        }
    if (!strcmp(mode, "asleep"))
        while (!shmd_wait_quit(w, -1)) {
        }
    while (!strcmp(mode, "computes")) shmd_beat(w);
    while (!strcmp(mode, "hangs")) pause();
    shmd_log(w, SHMD_INFO, "ends");
    return 0;
}
