/* Preloaded into a process: its wall clock is ahead by the seconds, a double, in the file that CLOCK_OFFSET_FILE names,
   and no time server leads it. Whoever writes into that file sets the clock of a process that runs.  */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static const volatile double *offset;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        _exit(120);
    offset = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (offset == MAP_FAILED)
        _exit(121);
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    if (syscall(SYS_clock_gettime, clock, at) != 0)
        return -1;
    /* Other constructors may ask before ours has run.  */
    if (offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        double whole = floor(*offset);
        at->tv_sec += (time_t)whole;
        at->tv_nsec += (long)((*offset - whole) * 1e9);
        if (at->tv_nsec >= 1000000000L) {
            at->tv_nsec -= 1000000000L;
            at->tv_sec += 1;
        }
    }
    return 0;
}

time_t time(time_t *seconds)
{
    struct timespec at = {0, 0};
    clock_gettime(CLOCK_REALTIME, &at);
    if (seconds)
        *seconds = at.tv_sec;
    return at.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec at = {0, 0};
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &at) != 0)
        return -1;
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

int adjtimex(struct timex *state)
{
    (void)state;
    return TIME_ERROR;
}
