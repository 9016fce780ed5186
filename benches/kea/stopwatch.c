/* A hook library that passes everything on to another one (LIBRARY, which Kea gets to see as this one) and measures how
 * long its callouts take on the packet threads. What it measured it writes to REPORT when it is unloaded: a line for each
 * callout with its calls and nanoseconds. */

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

static unsigned long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000UL + time.tv_nsec;
}

/* Kea's handles are references, so pointers; they are not looked into. */
typedef int callout(void *handle);

#define PASS_ON(name)                                                                                                  \
    static atomic_ulong name##_calls, name##_time;                                                                     \
    static callout *name##_there;                                                                                      \
    int name(void *handle) {                                                                                           \
        unsigned long begin = now();                                                                                   \
        int result = name##_there(handle);                                                                             \
        atomic_fetch_add_explicit(&name##_time, now() - begin, memory_order_relaxed);                                  \
        atomic_fetch_add_explicit(&name##_calls, 1, memory_order_relaxed);                                             \
        return result;                                                                                                 \
    }

#define CALLOUTS(DO)                                                                                                   \
    DO(lease4_select) DO(lease4_renew) DO(lease4_release) DO(leases4_committed)                                        \
    DO(lease6_select) DO(lease6_renew) DO(lease6_rebind) DO(lease6_release) DO(leases6_committed)

CALLOUTS(PASS_ON)

/* Not on a packet's way, so not measured. */
#define ALONG(name)                                                                                                    \
    int name(void *handle) { return ((callout *)symbol(#name))(handle); }

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
#define TELL(name) fprintf(report, "%s %lu %lu\n", #name, name##_calls, name##_time);
        CALLOUTS(TELL)
        fclose(report);
    }
    return ((int (*)(void))symbol("unload"))();
}
