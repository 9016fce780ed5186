#include "shim.h"

#include "dhcp_etcd/src/bridge.rs.h"
#include "kea_version.h"

#include <asiolink/io_address.h>
#include <cc/data.h>
#include <dhcp/iface_mgr.h>
#include <dhcp/pkt4.h>
#include <dhcp/pkt6.h>
#include <dhcpsrv/lease.h>
#include <dhcpsrv/lease_mgr_factory.h>
#include <log/log_dbglevels.h>
#include <log/logger.h>
#include <log/macros.h>
#include <log/message_dictionary.h>
#include <process/daemon.h>
#include <stats/stats_mgr.h>

#include <boost/asio/ip/address_v6.hpp>
#include <boost/weak_ptr.hpp>

#include <arpa/inet.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

using isc::asiolink::IOAddress;
using isc::data::ConstElementPtr;
using isc::dhcp::IfaceMgr;
using isc::dhcp::Lease;
using isc::dhcp::Lease4;
using isc::dhcp::Lease4CollectionPtr;
using isc::dhcp::Lease4Ptr;
using isc::dhcp::Lease6;
using isc::dhcp::Lease6CollectionPtr;
using isc::dhcp::Lease6Ptr;
using isc::dhcp::LeaseMgrFactory;
using isc::dhcp::LeasePtr;
using isc::dhcp::LeasePageSize;
using isc::dhcp::Pkt;
using isc::dhcp::Pkt4Ptr;
using isc::dhcp::Pkt6Ptr;

static_assert(DHCP_ETCD_TYPE_NA == static_cast<int>(Lease::TYPE_NA), "lease type");
static_assert(DHCP_ETCD_TYPE_TA == static_cast<int>(Lease::TYPE_TA), "lease type");
static_assert(DHCP_ETCD_TYPE_PD == static_cast<int>(Lease::TYPE_PD), "lease type");
static_assert(DHCP_ETCD_TYPE_V4 == static_cast<int>(Lease::TYPE_V4), "lease type");
static_assert(DHCP_ETCD_INFINITE_LIFETIME == Lease::INFINITY_LFT, "infinite lifetime");

namespace dhcp_etcd {

namespace {

isc::log::Logger logger("etcd-hooks");

dhcp_etcd_bytes bytes_of(const std::vector<uint8_t>& bytes) {
    return {bytes.data(), bytes.size()};
}

dhcp_etcd_bytes bytes_of(const std::string& text) {
    return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::array<uint8_t, 16> address_bytes(const IOAddress& address) {
    std::array<uint8_t, 16> all{};
    const std::vector<uint8_t> bytes = address.toBytes();
    std::copy(bytes.begin(), bytes.end(), all.begin());
    return all;
}

// IOAddress::fromBytes() would write the address out as text and read that: half of what a callout took.
IOAddress address6(const std::array<uint8_t, 16>& bytes) {
    boost::asio::ip::address_v6::bytes_type same;
    std::copy(bytes.begin(), bytes.end(), same.begin());
    return IOAddress(boost::asio::ip::address_v6(same));
}

// Fills in what leases of both protocols have, without the user context. The row points into the lease.
dhcp_etcd_lease row_of(const Lease& lease, const std::vector<uint8_t>& client, dhcp_etcd_lease row) {
    row.fqdn_fwd = lease.fqdn_fwd_ ? 1 : 0;
    row.fqdn_rev = lease.fqdn_rev_ ? 1 : 0;
    row.state = lease.state_;
    row.subnet_id = lease.subnet_id_;
    row.pool_id = pool_id(lease);
    row.valid_lft = lease.valid_lft_;
    row.cltt = lease.cltt_;
    if (lease.hwaddr_) {
        row.hwaddr = bytes_of(lease.hwaddr_->hwaddr_);
    }
    row.client = bytes_of(client);
    row.hostname = bytes_of(lease.hostname_);
    return row;
}

dhcp_etcd_lease row_of(const Lease4& lease) {
    dhcp_etcd_lease row{};
    const std::uint32_t address = htonl(lease.addr_.toUint32());
    std::memcpy(row.address, &address, sizeof address);
    row.type = DHCP_ETCD_TYPE_V4;
    return row_of(lease, lease.getClientIdVector(), row);
}

dhcp_etcd_lease row_of(const Lease6& lease) {
    dhcp_etcd_lease row{};
    const auto address = address_bytes(lease.addr_);
    std::copy(address.begin(), address.end(), row.address);
    row.type = static_cast<uint8_t>(lease.type_);
    row.prefix_len = lease.prefixlen_;
    row.iaid = lease.iaid_;
    row.preferred_lft = lease.preferred_lft_;
    return row_of(lease, lease.getDuidVector(), row);
}

// Shows a lease to `see`; the row is valid only during that call.
template <typename LeasePointer, typename See>
void show(const LeasePointer& lease, See&& see) {
    dhcp_etcd_lease row = row_of(*lease);
    std::string user_context;
    if (lease->getContext()) {
        user_context = lease->getContext()->str();
    }
    row.user_context = bytes_of(user_context);
    see(row);
}

// Shows a lease to a reader of one lease, or of a page.
template <typename LeasePointer, typename Reader>
void show_to(const LeasePointer& lease, Reader& reader) {
    show(lease, [&](const dhcp_etcd_lease& row) { reader.accept(row); });
}

// Calls `work` with a lease as what it is.
template <typename Work>
void of_its_family(const Lease& lease, Work&& work) {
    if (lease.getType() == Lease::TYPE_V4) {
        work(static_cast<const Lease4&>(lease));
    } else {
        work(static_cast<const Lease6&>(lease));
    }
}

// The address of the DHCPv6 lease that an argument is, if it is one.
std::array<uint8_t, 16> address_in(CalloutHandle& handle, const char* argument) {
    Lease6Ptr lease;
    handle.getArgument(argument, lease);
    return lease ? address_bytes(lease->addr_) : std::array<uint8_t, 16>{};
}

// The packet of the last callout before the write, on this thread. A plain pointer would not do, as the next packet may get
// the same memory; and it is not kept alive, as a packet keeps the library from being closed.
thread_local boost::weak_ptr<const Pkt> hinted_packet;

template <typename PacketPointer>
bool is_hinted(const PacketPointer& packet) {
    return !hinted_packet.owner_before(packet) && !packet.owner_before(hinted_packet);
}

// See remember_packet4().
template <typename PacketPointer>
bool remember_packet(CalloutHandle& handle, const char* argument) {
    PacketPointer query;
    handle.getArgument(argument, query);
    const bool another = !is_hinted(query);
    hinted_packet = query;
    return another;
}

// The packet that leases were written for. What was told of another one is forgotten.
template <typename PacketPointer>
PacketPointer written_for(CalloutHandle& handle, const char* argument, Exchange& exchange) {
    PacketPointer query;
    handle.getArgument(argument, query);
    if (!is_hinted(query)) {
        exchange.forget_hints();
    }
    return query;
}

std::unique_ptr<ShownLease> kept(const LeasePtr& lease) {
    return std::unique_ptr<ShownLease>(new ShownLease{lease});
}

// Shows leases that were written for a message, with the relay that it came through.
void show_assigned4(CalloutHandle& handle, const Lease4CollectionPtr& assigned, Exchange& exchange) {
    if (assigned && !assigned->empty()) {
        const auto query = written_for<Pkt4Ptr>(handle, "query4", exchange);
        for (const auto& lease : *assigned) {
            exchange.assigned4(lease->addr_.toUint32(), query->getGiaddr().toUint32(), kept(lease));
        }
    }
}

// An eventfd in the set that Kea's main loop waits on. Made once and never closed: a thread may be about to write to it
// while the library is unloaded, and its number must not be somebody else's then.
std::atomic<int> wake_fd{-1};

} // namespace

std::int32_t hooks_version() {
    return KEA_HOOKS_VERSION;
}

void check_states() {
    if (!states_are_known()) {
        throw std::logic_error("this Kea numbers the states of leases in another way than include/dhcp_etcd.h");
    }
}

rust::String kea_version() {
    return std::string(VERSION);
}

rust::String process_name() {
    return isc::process::Daemon::getProcName();
}

rust::String parameters(LibraryHandle& handle) {
    const ConstElementPtr all = handle.getParameters();
    return all ? all->str() : std::string("{}");
}

void register_command(LibraryHandle& handle, rust::Str name) {
    handle.registerCommandCallout(std::string(name), [](CalloutHandle& callout) {
        try {
            ConstElementPtr command;
            callout.getArgument("command", command);
            const std::string answer(own_command(command ? command->str() : std::string("{}")));
            callout.setArgument("response", ConstElementPtr(isc::data::Element::fromJSON(answer)));
        } catch (...) {
            return 1; // Kea says that the command has no answer
        }
        return 0;
    });
}

void read_lease4(std::uint32_t address, LeaseReader& reader) {
    const Lease4Ptr lease = LeaseMgrFactory::instance().getLease4(IOAddress(address));
    if (lease) {
        show_to(lease, reader);
    }
}

void read_lease6(const std::array<std::uint8_t, 16>& address, std::uint8_t type, LeaseReader& reader) {
    const IOAddress wanted = address6(address);
    const auto first = static_cast<Lease::Type>(type);
    Lease6Ptr lease = LeaseMgrFactory::instance().getLease6(first, wanted);
    for (const Lease::Type other : {Lease::TYPE_NA, Lease::TYPE_PD, Lease::TYPE_TA}) {
        if (!lease && other != first) {
            lease = LeaseMgrFactory::instance().getLease6(other, wanted);
        }
    }
    if (lease) {
        show_to(lease, reader);
    }
}

void show_lease(const ShownLease& shown, LeaseReader& reader) {
    of_its_family(*shown.lease, [&](const auto& lease) { show_to(&lease, reader); });
}

void read_page4(std::uint32_t after, std::size_t limit, PageReader& reader) {
    for (const auto& lease : LeaseMgrFactory::instance().getLeases4(IOAddress(after), LeasePageSize(limit))) {
        show_to(lease, reader);
    }
}

void read_page6(const std::array<std::uint8_t, 16>& after, std::size_t limit, PageReader& reader) {
    const IOAddress bound = address6(after);
    for (const auto& lease : LeaseMgrFactory::instance().getLeases6(bound, LeasePageSize(limit))) {
        show_to(lease, reader);
    }
}

bool lease_database_open() {
    return LeaseMgrFactory::haveInstance();
}

bool lease_database_in_memory() {
    return LeaseMgrFactory::instance().getType() == "memfile";
}

void listen_main_loop() {
    if (wake_fd.load() < 0) {
        const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0) {
            throw std::system_error(errno, std::generic_category(), "eventfd");
        }
        wake_fd.store(fd);
    }
    IfaceMgr::instance().addExternalSocket(wake_fd.load(), [](int fd) {
        // Drained before the work: what is marked meanwhile wakes the loop again. A readable descriptor would
        // otherwise keep Kea from reading packets.
        uint64_t wakes = 0;
        while (read(fd, &wakes, sizeof wakes) == sizeof wakes) {
        }
        main_loop_turn();
    });
}

void leave_main_loop() {
    const int fd = wake_fd.load();
    if (fd >= 0) {
        IfaceMgr::instance().deleteExternalSocket(fd);
    }
}

void wake_main_loop() {
    const int fd = wake_fd.load();
    if (fd >= 0) {
        const uint64_t one = 1;
        // A full counter means that the loop is awake already.
        [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof one);
    }
}

bool track_lease_database() {
    return track_leases([](const LeasePtr& lease, bool deleted) {
        // Kea holds the lock of its lease database meanwhile.
        of_its_family(*lease, [&](const auto& its) { lease_written(row_of(its), deleted); });
    });
}

void leave_lease_database() {
    leave_leases();
}

bool remember_packet4(CalloutHandle& handle) {
    return remember_packet<Pkt4Ptr>(handle, "query4");
}

bool remember_packet6(CalloutHandle& handle) {
    return remember_packet<Pkt6Ptr>(handle, "query6");
}

std::uint32_t lease4_address(CalloutHandle& handle) {
    Lease4Ptr lease;
    handle.getArgument("lease4", lease);
    return lease ? lease->addr_.toUint32() : 0;
}

std::array<std::uint8_t, 16> lease6_address(CalloutHandle& handle) {
    return address_in(handle, "lease6");
}

std::array<std::uint8_t, 16> registered6_address(CalloutHandle& handle) {
    return address_in(handle, "old_lease6");
}

void show_lease4(CalloutHandle& handle, LeaseReader& reader) {
    Lease4Ptr lease;
    handle.getArgument("lease4", lease);
    if (lease) {
        show_to(lease, reader);
    }
}

void show_lease6(CalloutHandle& handle, LeaseReader& reader) {
    Lease6Ptr lease;
    handle.getArgument("lease6", lease);
    if (lease) {
        show_to(lease, reader);
    }
}

void show_exchange4(CalloutHandle& handle, Exchange& exchange) {
    Lease4CollectionPtr deleted, assigned;
    handle.getArgument("deleted_leases4", deleted);
    handle.getArgument("leases4", assigned);
    if (deleted) {
        for (const auto& lease : *deleted) {
            show(lease, [&](const dhcp_etcd_lease& row) { exchange.deleted(row); });
        }
    }
    show_assigned4(handle, assigned, exchange);
}

void show_offer4(CalloutHandle& handle, Exchange& exchange) {
    uint32_t lifetime = 0;
    handle.getArgument("offer_lifetime", lifetime);
    Lease4CollectionPtr offered;
    handle.getArgument("leases4", offered);
    if (lifetime > 0) {
        show_assigned4(handle, offered, exchange);
    }
}

void show_exchange6(CalloutHandle& handle, Exchange& exchange) {
    Lease6CollectionPtr deleted, assigned;
    handle.getArgument("deleted_leases6", deleted);
    handle.getArgument("leases6", assigned);
    if (deleted) {
        for (const auto& lease : *deleted) {
            show(lease, [&](const dhcp_etcd_lease& row) { exchange.deleted(row); });
        }
    }
    if (assigned && !assigned->empty()) {
        const auto query = written_for<Pkt6Ptr>(handle, "query6", exchange);
        // The relay next to the client comes last; like Kea, take the first one from there that names a link.
        std::array<uint8_t, 16> link{};
        for (auto relay = query->relay_info_.rbegin(); relay != query->relay_info_.rend(); ++relay) {
            if (!relay->linkaddr_.isV6Zero()) {
                link = address_bytes(relay->linkaddr_);
                break;
            }
        }
        for (const auto& lease : *assigned) {
            exchange.assigned6(address_bytes(lease->addr_), static_cast<uint8_t>(lease->type_), link, kept(lease));
        }
    }
}

rust::String command_name(CalloutHandle& handle) {
    std::string name;
    handle.getArgument("name", name);
    return name;
}

rust::String command_arguments(CalloutHandle& handle) {
    ConstElementPtr arguments;
    handle.getArgument("arguments", arguments);
    return arguments ? arguments->str() : std::string("null");
}

void add_message(rust::Str id) {
    // The dictionary outlives an unload: a message of an earlier load stays.
    isc::log::MessageDictionary::globalDictionary()->add(std::string(id), "%1");
}

void log_line(std::uint32_t severity, rust::Str id, rust::Str text) {
    const std::string name(id);
    const std::string line(text);
    switch (severity) {
    case DHCP_ETCD_LOG_ERROR:
        LOG_ERROR(logger, name.c_str()).arg(line);
        break;
    case DHCP_ETCD_LOG_WARN:
        LOG_WARN(logger, name.c_str()).arg(line);
        break;
    case DHCP_ETCD_LOG_INFO:
        LOG_INFO(logger, name.c_str()).arg(line);
        break;
    case DHCP_ETCD_LOG_DEBUG:
        LOG_DEBUG(logger, isc::log::DBGLVL_TRACE_BASIC, name.c_str()).arg(line);
        break;
    default:
        LOG_DEBUG(logger, isc::log::DBGLVL_TRACE_DETAIL_DATA, name.c_str()).arg(line);
        break;
    }
}

std::uint32_t log_verbosity() {
    if (logger.isDebugEnabled(isc::log::DBGLVL_TRACE_DETAIL_DATA)) {
        return DHCP_ETCD_LOG_TRACE;
    }
    return logger.isDebugEnabled(isc::log::DBGLVL_TRACE_BASIC) ? DHCP_ETCD_LOG_DEBUG : DHCP_ETCD_LOG_INFO;
}

void set_statistic(rust::Str name, std::int64_t value) {
    isc::stats::StatsMgr::instance().setValue(std::string(name), value);
}

} // namespace dhcp_etcd
