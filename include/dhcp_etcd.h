/* The plain structs and numbers that the C++ shim and the Rust library share.
 *
 * bindgen turns this file into Rust, the shim asserts at compile time that the numbers are Kea's own: nothing here is
 * typed a second time. Sources: Kea src/lib/dhcpsrv/lease.h, src/lib/log/log_dbglevels.h. */
#ifndef DHCP_ETCD_H
#define DHCP_ETCD_H

#include <stddef.h>
#include <stdint.h>

/* Lease::state_. */
enum dhcp_etcd_state {
    DHCP_ETCD_STATE_ASSIGNED = 0,
    DHCP_ETCD_STATE_DECLINED = 1,
    DHCP_ETCD_STATE_EXPIRED_RECLAIMED = 2,
    DHCP_ETCD_STATE_RELEASED = 3,  /* Kea 3.0 */
    DHCP_ETCD_STATE_REGISTERED = 4 /* Kea 3.0 */
};

/* Lease::Type. */
enum dhcp_etcd_type {
    DHCP_ETCD_TYPE_NA = 0,
    DHCP_ETCD_TYPE_TA = 1,
    DHCP_ETCD_TYPE_PD = 2,
    DHCP_ETCD_TYPE_V4 = 3
};

/* Lease::INFINITY_LFT: a valid or preferred lifetime that never ends. */
#define DHCP_ETCD_INFINITE_LIFETIME 0xffffffffu

/* What a log line is to Kea: debug is its DBGLVL_TRACE_BASIC, trace its DBGLVL_TRACE_DETAIL_DATA. */
enum dhcp_etcd_severity {
    DHCP_ETCD_LOG_ERROR = 0,
    DHCP_ETCD_LOG_WARN = 1,
    DHCP_ETCD_LOG_INFO = 2,
    DHCP_ETCD_LOG_DEBUG = 3,
    DHCP_ETCD_LOG_TRACE = 4
};

/* Bytes that belong to Kea, valid only during the call that shows them; data may be null when len is 0. */
struct dhcp_etcd_bytes {
    const uint8_t* data;
    size_t len;
};

/* A lease as Kea's lease database holds it. */
struct dhcp_etcd_lease {
    uint8_t address[16];           /* network byte order; the first four bytes for DHCPv4 */
    uint8_t type;                  /* enum dhcp_etcd_type */
    uint8_t prefix_len;            /* DHCPv6: 128, or the delegated length */
    uint8_t fqdn_fwd;              /* 0 or 1 */
    uint8_t fqdn_rev;              /* 0 or 1 */
    uint32_t state;                /* enum dhcp_etcd_state, or a number of a newer Kea */
    uint32_t subnet_id;
    uint32_t pool_id;              /* 0 for none, as before Kea 2.4 */
    uint32_t iaid;                 /* DHCPv6 only */
    uint32_t valid_lft;            /* seconds, or DHCP_ETCD_INFINITE_LIFETIME */
    uint32_t preferred_lft;        /* seconds; DHCPv6 only */
    int64_t cltt;                  /* seconds since the epoch */
    struct dhcp_etcd_bytes hwaddr; /* empty when Kea holds none */
    struct dhcp_etcd_bytes client; /* DHCPv4: the client identifier, may be empty; DHCPv6: the DUID */
    struct dhcp_etcd_bytes hostname;
    struct dhcp_etcd_bytes user_context; /* JSON text, empty when there is none */
};

#endif
