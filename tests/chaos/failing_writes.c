/* Preloaded before libc: counts the writes of a process below one folder, lets one fail half-way, moves the clock.

   Whoever writes, Python, Arrow's or PyTorch's C++, calls these functions of libc. The process that is to meet a
   fault calls `fail_at` (by ctypes). A write that fails has put half of its bytes on disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char folder[4096];
static long nth, seen;
static int number, lasting, list = -1;
static __thread int inside;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* Below `below`, write number `n` (from 1) fails: with errno `error`, or for 0 by SIGKILL. `stays`: every later write
   of bytes fails as well, as on a full disk. The writes are listed in the file `to`, unless it is "". */
void fail_at(const char *below, long n, int error, int stays, const char *to) {
    snprintf(folder, sizeof folder, "%s/", below);
    nth = n, seen = 0, number = error, lasting = stays;
    list = *to ? REAL(open)(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
}

static long ahead;

/* The wall clock goes this many seconds wrong from now on; monotonic clocks and the times of files stay. */
void move_clock(long seconds) { ahead = seconds; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static __typeof__(&clock_gettime) found;
    if (!found) found = REAL(clock_gettime);
    int code = found(clock, now);
    if (!code && clock == CLOCK_REALTIME) now->tv_sec += ahead;
    return code;
}

static void die(void) { kill(getpid(), SIGKILL); pause(); }

/* Counts a write; returns true if it is to fail, with errno set. `takes`: it needs space on disk. */
static int fails(const char *what, const char *path, int takes) {
    if (!*folder || inside || strncmp(path, folder, strlen(folder))) return 0;
    inside = 1;
    long n = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (list >= 0) dprintf(list, "%s %s\n", what, path + strlen(folder));
    inside = 0;
    if (n != nth && !(lasting && takes && nth && n > nth)) return 0;
    errno = number;
    return 1;
}

static int fails_at(const char *what, int dir, const char *path, int takes) {
    char whole[8192], base[4096];
    if (*path == '/') return fails(what, path, takes);
    ssize_t length = -1;
    if (dir == AT_FDCWD) { if (getcwd(base, sizeof base)) length = strlen(base); }
    else { snprintf(whole, sizeof whole, "/proc/self/fd/%d", dir); length = readlink(whole, base, sizeof base - 1); }
    if (length < 0) return 0;
    base[length] = 0;
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return fails(what, whole, takes);
}

static int fails_of(const char *what, int fd, int takes) {
    char link[64], path[4096];
    if (!*folder || inside) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(what, path, takes);
}

/* True for a call that writes: what is there needs no new folder, what is not there no removal. */
static int there(int dir, const char *path) { struct stat found; return !fstatat(dir, path, &found, AT_SYMLINK_NOFOLLOW); }
static int news(int dir, const char *path, int flags) { return flags & O_TRUNC || (flags & O_CREAT && !there(dir, path)); }

#define FAIL do { if (!number) die(); errno = number; return -1; } while (0)

#define OPEN(name) int name(const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    if (news(AT_FDCWD, path, flags) && fails_at("open", AT_FDCWD, path, 1)) FAIL; \
    return REAL(name)(path, flags, mode); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) int name(int dir, const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    if (news(dir, path, flags) && fails_at("open", dir, path, 1)) FAIL; \
    return REAL(name)(dir, path, flags, mode); }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *bytes, size_t size) {
    if (!fails_of("write", fd, 1)) return REAL(write)(fd, bytes, size);
    if (seen == nth) REAL(write)(fd, bytes, size / 2);
    FAIL;
}

#define PWRITE(name, offset_t) ssize_t name(int fd, const void *bytes, size_t size, offset_t at) { \
    if (!fails_of("write", fd, 1)) return REAL(name)(fd, bytes, size, at); \
    if (seen == nth) REAL(name)(fd, bytes, size / 2, at); \
    FAIL; }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int n) {
    if (!fails_of("write", fd, 1)) return REAL(writev)(fd, parts, n);
    if (seen == nth && n) REAL(write)(fd, parts[0].iov_base, parts[0].iov_len / 2);
    FAIL;
}

#define OF_FD(name, arguments, passed, counts, takes) int name arguments { \
    if ((counts) && fails_of(#name, fd, takes)) FAIL; \
    return REAL(name) passed; }
OF_FD(fsync, (int fd), (fd), 1, 0)
OF_FD(fdatasync, (int fd), (fd), 1, 0)
OF_FD(ftruncate, (int fd, off_t size), (fd, size), 1, 1)
OF_FD(ftruncate64, (int fd, off64_t size), (fd, size), 1, 1)
OF_FD(flock, (int fd, int operation), (fd, operation), operation & LOCK_EX, 0)

#define ALLOCATE(name, offset_t) int name(int fd, offset_t at, offset_t size) { \
    if (!fails_of("fallocate", fd, 1)) return REAL(name)(fd, at, size); \
    if (!number) die(); \
    return number; }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define OF_PATH(name, arguments, passed, counts, dir, path, takes) int name arguments { \
    if ((counts) && fails_at(#name, dir, path, takes)) FAIL; \
    return REAL(name) passed; }
OF_PATH(rename, (const char *from, const char *to), (from, to), 1, AT_FDCWD, to, 0)
OF_PATH(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), 1, b, to, 0)
OF_PATH(mkdir, (const char *path, mode_t mode), (path, mode), !there(AT_FDCWD, path), AT_FDCWD, path, 1)
OF_PATH(mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), !there(dir, path), dir, path, 1)
OF_PATH(unlink, (const char *path), (path), there(AT_FDCWD, path), AT_FDCWD, path, 0)
OF_PATH(unlinkat, (int dir, const char *path, int flags), (dir, path, flags), there(dir, path), dir, path, 0)
OF_PATH(rmdir, (const char *path), (path), there(AT_FDCWD, path), AT_FDCWD, path, 0)
