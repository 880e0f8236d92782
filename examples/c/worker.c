/* A worker of shmd in C: it says that it is ready, and quits when asked to. It needs one generated header:
 *
 *     cc -std=gnu11 -O2 -I clients/c -o worker examples/c/worker.c
 *
 * The daemon starts it with descriptors from 3 up, which SHMD_FDS names in order. */
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shmd_layout.h"

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *map(int fd, int prot, size_t *size) {
    struct stat st;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) || fstat(fd, &st)) die("descriptor of a segment");
    void *p = mmap(NULL, (size_t)st.st_size, prot, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) die("mmap");
    if (madvise(p, (size_t)st.st_size, MADV_DONTFORK)) die("madvise"); /* a forked child must not write here */
    struct shmd_segment_header *h = p;
    if ((size_t)st.st_size < sizeof *h || atomic_load_explicit(&h->magic, memory_order_acquire) != SHMD_MAGIC) { /* pairs with the creator's release */
        fprintf(stderr, "descriptor %d is no segment of shmd\n", fd);
        exit(1);
    }
    unsigned major = h->layout_major, minor = h->layout_minor;
    unsigned long long unknown = h->incompat & ~SHMD_KNOWN_INCOMPAT;
    if (major != SHMD_LAYOUT_MAJOR || unknown) { /* a newer minor version is fine */
        fprintf(stderr, "descriptor %d has layout %u.%u with incompatible features %#llx, this program knows %d.%d\n", fd, major, minor, unknown,
                SHMD_LAYOUT_MAJOR, SHMD_LAYOUT_MINOR);
        exit(1);
    }
    *size = (size_t)st.st_size;
    return p;
}

/* at returns the struct at an offset, which was read from the memory and is not trusted. */
static void *at(void *segment, size_t size, uint64_t offset, size_t need) {
    if (offset % 8 || offset > size || need > size - offset) {
        fprintf(stderr, "an offset of %llu does not lie in a segment of %zu bytes\n", (unsigned long long)offset, size);
        exit(1);
    }
    return (char *)segment + offset;
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(void) {
    char *fds = getenv("SHMD_FDS");
    const char *me = getenv("SHMD_WORKER");
    if (!fds || !me) {
        fputs("start it through shmd: SHMD_FDS is not set\n", stderr);
        return 2;
    }
    void *roster = NULL, *command = NULL, *group = NULL;
    size_t roster_size = 0, command_size = 0, group_size = 0;
    int fd = 3;
    for (char *name = strtok(fds, ","); name; name = strtok(NULL, ","), fd++) {
        if (!strcmp(name, "roster")) roster = map(fd, PROT_READ, &roster_size);
        if (!strcmp(name, "command")) command = map(fd, PROT_READ, &command_size);
        if (!strcmp(name, "group")) group = map(fd, PROT_READ | PROT_WRITE, &group_size);
    }
    if (!roster || !command || !group) {
        fputs("SHMD_FDS names no roster, command or group\n", stderr);
        return 1;
    }

    /* Which row is mine? */
    struct shmd_roster_info *ri = at(roster, roster_size, sizeof(struct shmd_segment_header), sizeof *ri);
    uint32_t index = 0, count = ri->worker_count;
    uint64_t rows = ri->worker_offset;
    struct shmd_worker_row *row = NULL;
    for (; index < count; index++) {
        row = at(roster, roster_size, rows + (uint64_t)index * sizeof *row, sizeof *row);
        if (!strncmp(row->name, me, sizeof row->name)) break;
    }
    if (index == count) {
        fprintf(stderr, "the roster has no worker %s\n", me);
        return 1;
    }
    struct shmd_group_info *gi = at(group, group_size, sizeof(struct shmd_segment_header), sizeof *gi);
    struct shmd_instance_page *page = at(group, group_size, gi->instance_offset + (uint64_t)row->instance * gi->instance_stride, sizeof *page);
    struct shmd_command_info *ci = at(command, command_size, sizeof(struct shmd_segment_header), sizeof *ci);
    struct shmd_command_row *mine = at(command, command_size, ci->worker_offset + (uint64_t)index * sizeof *mine, sizeof *mine);

    uint32_t nobody = 0;
    if (!atomic_compare_exchange_strong(&page->attached_pid, &nobody, (uint32_t)getpid())) {
        fprintf(stderr, "process %u is already attached as %s\n", nobody, me);
        return 1;
    }
    page->ready_ns = now();
    page->ready = 1;
    gi->bell++; /* an atomic add */
    syscall(SYS_futex, &gi->bell, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
    printf("%s is ready\n", me);
    fflush(stdout);

    /* Sleep until the quit flag, the low byte of the word, is set. A stop of the group or region rings this word too. */
    for (;;) {
        uint32_t word = mine->quit;
        if (word & 0xff) break;
        syscall(SYS_futex, &mine->quit, FUTEX_WAIT, word, NULL, NULL, 0);
    }
    page->quit_seen_ns = now();
    printf("%s quits\n", me);
    return 0;
}
