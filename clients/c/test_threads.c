//go:build ignore
/* The line above keeps the go command from taking this file for cgo. c_test.go compiles it with -fsanitize=thread and runs it:
 *
 *   test_threads [race]     descriptors 3, 4 and 5 are a roster, a command and a group segment of two workers, c.0 and c.1
 *
 * runs the worker of examples/c in threads of this process, beside a daemon and an operator, which are threads too: the sanitizer sees one process only.
 * Each segment is mapped once, so that it sees that all of them use the same memory. race: the operator looks at one word without an atomic load,
 * which the sanitizer must report. */
#include <pthread.h>
#include <sys/mman.h>

static void *map_once(int fd, int prot, unsigned long size);
static int keep(void *base, unsigned long size);
#define mmap(addr, size, prot, flags, fd, offset) map_once(fd, prot, size)
#define munmap keep
#include "shmd.c"
#undef mmap
#undef munmap
static int worker_main(void);
#define main worker_main
#include "../../examples/c/worker.c"
#undef main

static void *segments[8];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int keep(void *base, unsigned long size) {
    (void)base, (void)size;
    return 0;
}

static void *map_once(int fd, int prot, unsigned long size) {
    (void)prot;
    if (!segments[fd] && (segments[fd] = (mmap)(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) die("mmap");
    return segments[fd];
}

static struct segment segment(int fd) {
    struct stat st;
    if (fstat(fd, &st)) die("fstat");
    return (struct segment){map_once(fd, PROT_READ | PROT_WRITE, (unsigned long)st.st_size), (size_t)st.st_size};
}

static void *instance(void *status) {
    *(int *)status = worker_main();
    return NULL;
}

int main(int argc, char **argv) {
    (void)argv;
    struct segment roster = segment(3), command = segment(4), group = segment(5);
    (void)roster;
    struct shmd_command_info *ci = at(command, SHMD_COMMAND_INFO_OFFSET, sizeof *ci);
    struct shmd_command_row *rows = at(command, ci->worker_offset, 2 * sizeof *rows);
    struct shmd_group_info *gi = at(group, SHMD_GROUP_INFO_OFFSET, sizeof *gi);
    struct shmd_instance_page *pages = at(group, gi->instance_offset, 2 * sizeof *pages);
    for (int round = 0; round < 200; round++) {
        pthread_t threads[3];
        int status[3];
        for (int i = 0; i < 3; i++) { /* the third has the name of the second: one of them must be refused */
            uint32_t bell = gi->bell;
            setenv("SHMD_FDS", "roster,command,group", 1);
            setenv("SHMD_WORKER", i == 0 ? "c.0" : "c.1", 1);
            if (pthread_create(&threads[i], NULL, instance, &status[i])) die("pthread_create");
            if (i == 2) break;
            while (!pages[i].ready) { /* the daemon: asleep on the group's bell */
                syscall(SYS_futex, &gi->bell, FUTEX_WAIT, bell, NULL, NULL, 0);
                bell = gi->bell;
            }
            if (!pages[i].ready_ns || !pages[i].attached_pid) {
                fputs("ready, and does not say since when, or who\n", stderr);
                return 1;
            }
        }
        pthread_join(threads[2], NULL);
        for (int i = 0; i < 2; i++) { /* the operator: desired state, the flag, and then the wake */
            rows[i].flagged_ns = (uint64_t)clock_ns(CLOCK_MONOTONIC);
            pages[i].ask += 2 + (uint32_t)(round & 1); /* and the daemon wants a heartbeat */
            rows[i].quit |= 1;
            syscall(SYS_futex, &rows[i].quit, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
            if (argc > 1 && i == 0) fprintf(stderr, "%u\n", *(volatile uint32_t *)(void *)&pages[i].quit_seen_ns); /* what must be reported */
            pthread_join(threads[i], NULL);
            if (pages[i].answered != pages[i].ask || pages[i].asleep) {
                fputs("the heartbeat was not given, or it sleeps still\n", stderr);
                return 1;
            }
        }
        if (status[0] || status[1] || status[2] != 1) {
            fprintf(stderr, "round %d: the workers end with %d and %d, and the one too many with %d\n", round, status[0], status[1], status[2]);
            return 1;
        }
        for (int i = 0; i < 2; i++) { /* the daemon, before it launches the next */
            if (!pages[i].quit_seen_ns) {
                fputs("the quit flag was not acknowledged\n", stderr);
                return 1;
            }
            pages[i].ready = 0;
            pages[i].ask = pages[i].answered = 0;
            pages[i].heartbeat_ns = 0;
            pages[i].ready_ns = pages[i].quit_seen_ns = 0;
            pages[i].attached_pid = 0;
            rows[i].quit = 0;
        }
    }
    return 0;
}
