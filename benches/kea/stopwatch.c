/* A hook library that passes everything on to another one (LIBRARY, which Kea gets to see as this one) and measures how
 * long its callouts take on the packet threads. What it measured it writes to REPORT when it is unloaded: a line for each
 * callout with its calls, nanoseconds of the clock on the wall, and nanoseconds of the thread's own CPU. The former has in it
 * what else ran meanwhile, and what the callout waited for; the latter has neither. What the clocks themselves take is in
 * the line "nothing", to be taken off: the same for a callout that does nothing, at every third call of a real one, which
 * then is not measured.
 *
 * What the lease database of Kea 2.4 and later tells without a callout does not pass here. */

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

static void *symbol(const char *name) {
    static void *library;
    if (library == NULL) {
        library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    }
    return library == NULL ? NULL : dlsym(library, name);
}

static unsigned long now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000UL + time.tv_nsec;
}

/* Kea's handles are references, so pointers; they are not looked into. */
typedef int callout(void *handle);

struct times {
    atomic_ulong calls, wall, cpu;
};

/* The thread's clock costs a system call, so it stands outside of the other one. */
static int timed(callout *there, void *handle, struct times *times) {
    unsigned long cpu = now(CLOCK_THREAD_CPUTIME_ID);
    unsigned long wall = now(CLOCK_MONOTONIC);
    int result = there(handle);
    wall = now(CLOCK_MONOTONIC) - wall;
    cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    atomic_fetch_add_explicit(&times->calls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&times->wall, wall, memory_order_relaxed);
    atomic_fetch_add_explicit(&times->cpu, cpu, memory_order_relaxed);
    return result;
}

static int nothing(void *handle) {
    (void)handle;
    return 0;
}

static struct times nothing_times;

/* Not the compiler's to look into. */
static callout *volatile nothing_there = nothing;

static int in_turns(callout *there, void *handle, struct times *times) {
    static _Thread_local unsigned long calls;
    if (there == NULL) {
        return 0; /* the other library has none at this hook point */
    }
    if (++calls % 3 != 0) {
        return timed(there, handle, times);
    }
    timed(nothing_there, handle, &nothing_times);
    return there(handle);
}

#define PASS_ON(name)                                                                                                  \
    static struct times name##_times;                                                                                  \
    static callout *name##_there;                                                                                      \
    int name(void *handle) { return in_turns(name##_there, handle, &name##_times); }

#define CALLOUTS(DO)                                                                                                   \
    DO(lease4_renew) DO(lease4_offer) DO(leases4_committed)                                                            \
    DO(lease6_renew) DO(lease6_rebind) DO(leases6_committed)

CALLOUTS(PASS_ON)

/* Not on a packet's way, so not measured. */
#define ALONG(name)                                                                                                    \
    int name(void *handle) {                                                                                           \
        callout *there = (callout *)symbol(#name);                                                                     \
        return there == NULL ? 0 : there(handle);                                                                      \
    }

ALONG(dhcp4_srv_configured)
ALONG(dhcp6_srv_configured)
ALONG(lease4_expire)
ALONG(lease6_expire)

int version(void) { return ((int (*)(void))symbol("version"))(); }

int multi_threading_compatible(void) { return 1; }

int load(void *handle) {
#define FIND(name) name##_there = (callout *)symbol(#name);
    CALLOUTS(FIND)
    return ((callout *)symbol("load"))(handle);
}

int unload(void) {
    FILE *report = fopen(REPORT, "w");
    if (report != NULL) {
#define TELL(name) fprintf(report, "%s %lu %lu %lu\n", #name, name##_times.calls, name##_times.wall, name##_times.cpu);
        TELL(nothing)
        CALLOUTS(TELL)
        fclose(report);
    }
    return ((int (*)(void))symbol("unload"))();
}
