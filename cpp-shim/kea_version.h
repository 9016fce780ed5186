// What differs between the versions of Kea that the shim is built for, and nothing else. build.rs defines DHCP_ETCD_KEA,
// the KEA_HOOKS_VERSION of the headers, which they themselves define as a constant that #if does not see.
#pragma once

#include <config.h> // Kea's: must come before its other headers

#include "dhcp_etcd.h"

#include <dhcpsrv/lease.h>
#include <dhcpsrv/lease_mgr_factory.h>
#include <hooks/hooks.h>

#include <atomic>
#include <cstdint>
#include <functional>

namespace dhcp_etcd {

static_assert(DHCP_ETCD_KEA == KEA_HOOKS_VERSION, "build.rs has read the version of these headers");

// Kea defines these numbers in its library, not in its headers: load() is the earliest that they can be compared.
inline bool states_are_known() {
    using isc::dhcp::Lease;
    bool known = Lease::STATE_DEFAULT == DHCP_ETCD_STATE_ASSIGNED &&
                 Lease::STATE_DECLINED == DHCP_ETCD_STATE_DECLINED &&
                 Lease::STATE_EXPIRED_RECLAIMED == DHCP_ETCD_STATE_EXPIRED_RECLAIMED;
#if DHCP_ETCD_KEA >= 30000
    known = known && Lease::STATE_RELEASED == DHCP_ETCD_STATE_RELEASED &&
            Lease::STATE_REGISTERED == DHCP_ETCD_STATE_REGISTERED;
#endif
    return known;
}

inline std::uint32_t pool_id([[maybe_unused]] const isc::dhcp::Lease& lease) {
#if DHCP_ETCD_KEA >= 20400
    return lease.pool_id_;
#else
    return 0;
#endif
}

// Whether callbacks of this library are registered with a lease manager.
inline std::atomic<bool> tracking{false};

// Has the lease manager call `written` with each lease that it has added or updated, and with `true` beside it when it
// has deleted it; whether it does. Kea 2.2 has no such thing. For memfile only: with SQL backends it is told of leases that
// were not written, and makes two writes of one address fail (Kea 2.6, mysql_lease_mgr.cc).
inline bool track_leases([[maybe_unused]] std::function<void(const isc::dhcp::LeasePtr&, bool)> written) {
#if DHCP_ETCD_KEA >= 20400
    using isc::dhcp::Lease;
    using isc::dhcp::LeasePtr;
    using Manager = isc::dhcp::TrackingLeaseMgr;
    Manager& manager = isc::dhcp::LeaseMgrFactory::instance();
    tracking = true;
    for (const Lease::Type type : {Lease::TYPE_V4, Lease::TYPE_NA, Lease::TYPE_TA, Lease::TYPE_PD}) {
        for (const auto kind : {Manager::TRACK_ADD_LEASE, Manager::TRACK_UPDATE_LEASE, Manager::TRACK_DELETE_LEASE}) {
            const bool deleted = kind == Manager::TRACK_DELETE_LEASE;
            // The first versions of this told a second thing.
            const auto tell = [=](const LeasePtr& lease, auto&&...) { written(lease, deleted); };
            manager.registerCallback(kind, "etcd", type, tell);
        }
    }
    return true;
#else
    return false;
#endif
}

// Ends that, where it was begun. Other libraries' callbacks for all subnets end with it: Kea knows no owner there.
inline void leave_leases() {
#if DHCP_ETCD_KEA >= 20400
    using isc::dhcp::Lease;
    if (tracking.exchange(false) && isc::dhcp::LeaseMgrFactory::haveInstance()) {
        for (const Lease::Type type : {Lease::TYPE_V4, Lease::TYPE_NA, Lease::TYPE_TA, Lease::TYPE_PD}) {
            isc::dhcp::LeaseMgrFactory::instance().unregisterCallbacks(isc::dhcp::SUBNET_ID_GLOBAL, type);
        }
    }
#endif
}

} // namespace dhcp_etcd
