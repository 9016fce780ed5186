// The C++ half of the bridge: what Rust may ask of Kea. It turns Kea's objects into the plain structs of
// include/dhcp_etcd.h and back, and decides nothing. The Rust half is src/bridge.rs.
#pragma once

#include <config.h> // Kea's: must come before its other headers

#include "dhcp_etcd.h"

#include <dhcpsrv/lease.h>
#include <hooks/hooks.h>
#include <rust/cxx.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>

namespace rust {
namespace behavior {

// Every call from Rust that can fail goes through here: whatever Kea throws becomes an error value, also what does not
// derive from std::exception. Nothing unwinds into Rust.
template <typename Try, typename Fail>
static void trycatch(Try&& func, Fail&& fail) noexcept {
    try {
        func();
    } catch (const std::exception& error) {
        fail(error.what());
    } catch (...) {
        fail("an exception that is no std::exception");
    }
}

} // namespace behavior
} // namespace rust

namespace dhcp_etcd {

using isc::hooks::CalloutHandle;
using isc::hooks::LibraryHandle;

// Defined by Rust (src/bridge.rs).
struct LeaseReader;
struct PageReader;
struct Exchange;

// A share of a lease that a callout was shown, kept beyond the callout; looked at when no packet is handled any more.
struct ShownLease {
    isc::dhcp::LeasePtr lease;
};
void show_lease(const ShownLease& shown, LeaseReader& reader);

// The process that loads the library.
std::int32_t hooks_version();
rust::String kea_version();
void check_states();
rust::String process_name();

// The `parameters` of this library as JSON text; "{}" when there are none.
rust::String parameters(LibraryHandle& handle);

// A command of the library's own, to be answered by own_command() of the Rust half.
void register_command(LibraryHandle& handle, rust::Str name);

// The lease database. The lease, if there is one, is shown to the reader. A DHCPv6 lease is looked for as each type,
// the given one first, since one key stands for an address whatever its type.
void read_lease4(std::uint32_t address, LeaseReader& reader);
void read_lease6(const std::array<std::uint8_t, 16>& address, std::uint8_t type, LeaseReader& reader);
bool lease_database_open();
bool lease_database_in_memory();

// A page of it: at most `limit` leases after an address, in the order of the addresses. All types of DHCPv6 leases.
void read_page4(std::uint32_t after, std::size_t limit, PageReader& reader);
void read_page6(const std::array<std::uint8_t, 16>& after, std::size_t limit, PageReader& reader);

// Has lease_written() of the Rust half called with every lease that is written from now on, until the end of the lease
// database or leave_lease_database(), from whatever thread writes; whether this Kea can do that. For a database
// in memory only.
bool track_lease_database();
void leave_lease_database();

// The main loop: once listening, waking it (from any thread) calls main_loop_turn() on the main thread.
void listen_main_loop();
void leave_main_loop();
void wake_main_loop();

// Remembers the packet of a callout before the write as the one that this thread was told hints about; whether that was
// another one. The callout after the write has hints forgotten that are not about its packet.
bool remember_packet4(CalloutHandle& handle);
bool remember_packet6(CalloutHandle& handle);

// What callouts are told. Each shows the argument to Rust.
std::uint32_t lease4_address(CalloutHandle& handle); // all of them: 0 when there is none
std::array<std::uint8_t, 16> lease6_address(CalloutHandle& handle);
std::array<std::uint8_t, 16> registered6_address(CalloutHandle& handle); // if there was a lease before
void show_lease4(CalloutHandle& handle, LeaseReader& reader);
void show_lease6(CalloutHandle& handle, LeaseReader& reader);
void show_offer4(CalloutHandle& handle, Exchange& exchange);       // if it was written
void show_exchange4(CalloutHandle& handle, Exchange& exchange);
void show_exchange6(CalloutHandle& handle, Exchange& exchange);
rust::String command_name(CalloutHandle& handle);
rust::String command_arguments(CalloutHandle& handle);

// Kea's log, logger "etcd-hooks", and its statistics (main thread only when Kea is single-threaded).
void add_message(rust::Str id);
void log_line(std::uint32_t severity, rust::Str id, rust::Str text);
std::uint32_t log_verbosity();
void set_statistic(rust::Str name, std::int64_t value);

} // namespace dhcp_etcd
