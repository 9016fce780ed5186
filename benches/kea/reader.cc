// What a mirror of committed leases takes at least: a hook library that reads each of them once more from Kea's lease
// database, as the payload of a callout is not what that holds, and does nothing with it.

#include <dhcpsrv/lease_mgr_factory.h>
#include <hooks/hooks.h>

using isc::dhcp::Lease4CollectionPtr;
using isc::dhcp::Lease6CollectionPtr;
using isc::dhcp::LeaseMgrFactory;
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
    Lease4CollectionPtr assigned;
    handle.getArgument("leases4", assigned);
    if (assigned) {
        for (const auto& lease : *assigned) {
            LeaseMgrFactory::instance().getLease4(lease->addr_);
        }
    }
    return 0;
}

int leases6_committed(CalloutHandle& handle) {
    Lease6CollectionPtr assigned;
    handle.getArgument("leases6", assigned);
    if (assigned) {
        for (const auto& lease : *assigned) {
            LeaseMgrFactory::instance().getLease6(lease->type_, lease->addr_);
        }
    }
    return 0;
}
}
