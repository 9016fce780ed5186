// The simplest mirror's half in Kea: a hook library that has Kea tell what was assigned and removed and for which packet, and
// reads each lease once more from Kea's lease database, in the callout, as the payload of that is not what the database
// holds. That a lease is renewed or rebound Kea tells only before the write, so it has callouts there, too. It does nothing with
// all that. With READS 0 its callouts do nothing at all: what is left is what Kea takes to call them.

#include <dhcp/pkt4.h>
#include <dhcp/pkt6.h>
#include <dhcpsrv/lease_mgr_factory.h>
#include <hooks/hooks.h>

using isc::dhcp::Lease4CollectionPtr;
using isc::dhcp::Lease4Ptr;
using isc::dhcp::Lease6CollectionPtr;
using isc::dhcp::Lease6Ptr;
using isc::dhcp::LeaseMgrFactory;
using isc::dhcp::Pkt4Ptr;
using isc::dhcp::Pkt6Ptr;
using isc::hooks::CalloutHandle;
using isc::hooks::LibraryHandle;

namespace {

// Which lease is about to be renewed, for which packet.
template <typename LeasePointer, typename PacketPointer>
int about_to(CalloutHandle& handle, const char* lease_argument, const char* packet_argument) {
    if (READS) {
        LeasePointer lease;
        PacketPointer query;
        handle.getArgument(lease_argument, lease);
        handle.getArgument(packet_argument, query);
    }
    return 0;
}

} // namespace

extern "C" {

int version() {
    return KEA_HOOKS_VERSION;
}

int multi_threading_compatible() {
    return 1;
}

int load(LibraryHandle&) {
    return 0;
}

int unload() {
    return 0;
}

int lease4_renew(CalloutHandle& handle) {
    return about_to<Lease4Ptr, Pkt4Ptr>(handle, "lease4", "query4");
}

int lease6_renew(CalloutHandle& handle) {
    return about_to<Lease6Ptr, Pkt6Ptr>(handle, "lease6", "query6");
}

int lease6_rebind(CalloutHandle& handle) {
    return about_to<Lease6Ptr, Pkt6Ptr>(handle, "lease6", "query6");
}

int leases4_committed(CalloutHandle& handle) {
    if (!READS) {
        return 0;
    }
    Lease4CollectionPtr deleted, assigned;
    Pkt4Ptr query;
    handle.getArgument("deleted_leases4", deleted);
    handle.getArgument("leases4", assigned);
    handle.getArgument("query4", query);
    if (assigned) {
        for (const auto& lease : *assigned) {
            LeaseMgrFactory::instance().getLease4(lease->addr_);
        }
    }
    return 0;
}

int leases6_committed(CalloutHandle& handle) {
    if (!READS) {
        return 0;
    }
    Lease6CollectionPtr deleted, assigned;
    Pkt6Ptr query;
    handle.getArgument("deleted_leases6", deleted);
    handle.getArgument("leases6", assigned);
    handle.getArgument("query6", query);
    if (assigned) {
        for (const auto& lease : *assigned) {
            LeaseMgrFactory::instance().getLease6(lease->type_, lease->addr_);
        }
    }
    return 0;
}
}
