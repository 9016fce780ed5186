// The simplest mirror's half in Kea: a hook library that has Kea tell what was assigned and removed and for which packet, and
// reads each lease once more from Kea's lease database, in the callout, as the payload of that is not what the database
// holds. It does nothing with all that. With READS 0 its callouts do nothing at all: what is left is what Kea takes to call one.

#include <dhcp/pkt4.h>
#include <dhcp/pkt6.h>
#include <dhcpsrv/lease_mgr_factory.h>
#include <hooks/hooks.h>

using isc::dhcp::Lease4CollectionPtr;
using isc::dhcp::Lease6CollectionPtr;
using isc::dhcp::LeaseMgrFactory;
using isc::dhcp::Pkt4Ptr;
using isc::dhcp::Pkt6Ptr;
using isc::hooks::CalloutHandle;
using isc::hooks::LibraryHandle;

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
