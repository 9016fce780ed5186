//! Where Kea and this library meet: everything that crosses, and the only `unsafe` code.
//!
//! | crossing | how it fails |
//! | --- | --- |
//! | Kea calls an exported symbol | a panic or an error becomes a log line; Kea goes on (`load` then returns 1) |
//! | Rust calls the shim | whatever C++ throws becomes an `Err` |
//! | the shim calls Rust back | a panic becomes a log line |
//!
//! Nothing unwinds across. What the shim shows is borrowed for the call and copied here; only of a lease that was committed
//! a share is kept.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::net::{IpAddr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{PoisonError, RwLock};

use cxx::UniquePtr;
use once_cell::sync::OnceCell;
use tracing::{Level, error, info, warn};
use zeroize::Zeroizing;

use crate::commands;
use crate::committed::Shown;
use crate::config::Config;
use crate::credential_files;
use crate::handover::Changes;
use crate::lease::{self, Family, Identifier, Lease, LeaseType, Operation, Protocol};
use crate::log::{self, Log};
use crate::messages;
use crate::mirror::{GIVES_WAY, Kea, Mirror};
use crate::record::{relay, v4};

/// `include/dhcp_etcd.h`, as bindgen reads it.
#[allow(missing_docs, dead_code, non_camel_case_types, non_upper_case_globals, clippy::pedantic)]
mod abi {
    include!(concat!(env!("OUT_DIR"), "/abi.rs"));
}

// SAFETY: both sides compile the same header, and the struct is plain: numbers and borrowed pointers.
unsafe impl cxx::ExternType for abi::dhcp_etcd_lease {
    type Id = cxx::type_id!("dhcp_etcd_lease");
    type Kind = cxx::kind::Trivial;
}

/// Each function is documented in `cpp-shim/shim.h`.
#[cxx::bridge(namespace = "dhcp_etcd")]
mod ffi {
    unsafe extern "C++" {
        include!("shim.h");

        #[namespace = "isc::hooks"]
        type LibraryHandle;
        #[namespace = "isc::hooks"]
        type CalloutHandle;
        #[namespace = ""]
        #[cxx_name = "dhcp_etcd_lease"]
        type LeaseRow = super::abi::dhcp_etcd_lease;

        type ShownLease;
        fn show_lease(shown: &ShownLease, reader: &mut LeaseReader) -> Result<()>;

        fn hooks_version() -> i32;
        fn kea_version() -> String;
        fn check_states() -> Result<()>;
        fn process_name() -> Result<String>;
        fn parameters(handle: Pin<&mut LibraryHandle>) -> Result<String>;
        fn register_command(handle: Pin<&mut LibraryHandle>, name: &str) -> Result<()>;

        fn read_lease4(address: u32, reader: &mut LeaseReader) -> Result<()>;
        fn read_lease6(address: &[u8; 16], lease_type: u8, reader: &mut LeaseReader) -> Result<()>;
        fn read_page4(after: u32, limit: usize, reader: &mut PageReader) -> Result<()>;
        fn read_page6(after: &[u8; 16], limit: usize, reader: &mut PageReader) -> Result<()>;
        fn lease_database_open() -> Result<bool>;
        fn lease_database_in_memory() -> Result<bool>;

        fn track_lease_database() -> Result<bool>;
        fn leave_lease_database() -> Result<()>;

        fn listen_main_loop() -> Result<()>;
        fn leave_main_loop() -> Result<()>;
        fn wake_main_loop();

        fn remember_packet4(handle: Pin<&mut CalloutHandle>) -> Result<bool>;
        fn remember_packet6(handle: Pin<&mut CalloutHandle>) -> Result<bool>;
        fn lease4_address(handle: Pin<&mut CalloutHandle>) -> Result<u32>;
        fn lease6_address(handle: Pin<&mut CalloutHandle>) -> Result<[u8; 16]>;
        fn registered6_address(handle: Pin<&mut CalloutHandle>) -> Result<[u8; 16]>;
        fn show_lease4(handle: Pin<&mut CalloutHandle>, reader: &mut LeaseReader) -> Result<()>;
        fn show_lease6(handle: Pin<&mut CalloutHandle>, reader: &mut LeaseReader) -> Result<()>;
        fn show_offer4(handle: Pin<&mut CalloutHandle>, exchange: &mut Exchange) -> Result<()>;
        fn show_exchange4(handle: Pin<&mut CalloutHandle>, exchange: &mut Exchange) -> Result<()>;
        fn show_exchange6(handle: Pin<&mut CalloutHandle>, exchange: &mut Exchange) -> Result<()>;
        fn command_name(handle: Pin<&mut CalloutHandle>) -> Result<String>;
        fn command_arguments(handle: Pin<&mut CalloutHandle>) -> Result<String>;

        fn add_message(id: &str) -> Result<()>;
        fn log_line(severity: u32, id: &str, text: &str) -> Result<()>;
        fn log_verbosity() -> Result<u32>;
        fn set_statistic(name: &str, value: i64) -> Result<()>;
    }

    extern "Rust" {
        type LeaseReader;
        fn accept(self: &mut LeaseReader, row: &LeaseRow);

        type PageReader;
        fn accept(self: &mut PageReader, row: &LeaseRow);

        type Exchange<'a>;
        fn forget_hints(self: &mut Exchange);
        fn deleted(self: &mut Exchange, row: &LeaseRow);
        fn assigned4(self: &mut Exchange, address: u32, giaddr: u32, shown: UniquePtr<ShownLease>);
        fn assigned6(
            self: &mut Exchange,
            address: &[u8; 16],
            lease_type: u8,
            link: &[u8; 16],
            shown: UniquePtr<ShownLease>,
        );

        fn lease_written(row: &LeaseRow, deleted: bool);
        fn main_loop_turn();
        fn own_command(command: &str) -> String;
    }
}

use ffi::{CalloutHandle, LeaseRow, LibraryHandle, ShownLease};

/// Takes the lease that the shim shows.
#[derive(Default)]
struct LeaseReader {
    lease: Option<Lease>,
    lease_type: Option<LeaseType>,
}

impl LeaseReader {
    fn accept(&mut self, row: &LeaseRow) {
        never_unwind("reading a lease", || {
            self.lease_type = Some(lease_type(row.type_));
            self.lease = Some(copy(row));
        });
    }
}

/// Takes the leases of a page.
#[derive(Default)]
struct PageReader {
    leases: Vec<Lease>,
}

impl PageReader {
    fn accept(&mut self, row: &LeaseRow) {
        never_unwind("reading a page of leases", || self.leases.push(copy(row)));
    }
}

/// Takes what a `leases4_committed` or `leases6_committed` tells.
struct Exchange<'a> {
    mirror: &'a Mirror<KeaServer>,
}

impl Exchange<'_> {
    /// No callout before the write was of this packet.
    fn forget_hints(&mut self) {
        never_unwind("hints of another packet", || self.mirror.forget_hints());
    }

    fn deleted(&mut self, row: &LeaseRow) {
        never_unwind("a removed lease", || self.mirror.removed(&copy(row), lease_type(row.type_)));
    }

    fn assigned4(&mut self, address: u32, giaddr: u32, lease: UniquePtr<ShownLease>) {
        never_unwind("an assigned lease", || {
            self.mirror.assigned(v4(address), LeaseType::Na, relay(v4(giaddr)), shown(lease));
        });
    }

    fn assigned6(&mut self, address: &[u8; 16], kind: u8, link: &[u8; 16], lease: UniquePtr<ShownLease>) {
        never_unwind("an assigned lease", || {
            self.mirror.assigned(v6(*address), lease_type(kind), relay(v6(*link)), shown(lease));
        });
    }
}

// SAFETY: the pointer in it counts its owners atomically, and the lease is looked at by `Mirror::stop` alone, when no packet
// thread runs any more.
unsafe impl Send for ShownLease {}

/// A lease that a callout showed, to be looked at later.
fn shown(lease: UniquePtr<ShownLease>) -> Shown {
    Shown::new(move || {
        let mut reader = LeaseReader::default();
        ffi::show_lease(lease.as_ref()?, &mut reader).ok()?;
        reader.lease
    })
}

fn v6(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).into()
}

/// The type of a DHCPv6 lease; DHCPv4 leases have none and nobody asks for it.
fn lease_type(kind: u8) -> LeaseType {
    match u32::from(kind) {
        abi::dhcp_etcd_type::DHCP_ETCD_TYPE_TA => LeaseType::Ta,
        abi::dhcp_etcd_type::DHCP_ETCD_TYPE_PD => LeaseType::Pd,
        _ => LeaseType::Na,
    }
}

fn is_v4(row: &LeaseRow) -> bool {
    u32::from(row.type_) == abi::dhcp_etcd_type::DHCP_ETCD_TYPE_V4
}

fn address(row: &LeaseRow) -> IpAddr {
    let [a, b, c, d, ..] = row.address;
    if is_v4(row) { [a, b, c, d].into() } else { v6(row.address) }
}

fn copy(row: &LeaseRow) -> Lease {
    let client = Identifier::from_slice(bytes(&row.client));
    Lease {
        address: address(row),
        state: row.state,
        hwaddr: Identifier::from_slice(bytes(&row.hwaddr)),
        protocol: if is_v4(row) {
            Protocol::V4 { client_id: client }
        } else {
            Protocol::V6 {
                lease_type: lease_type(row.type_),
                prefix_len: row.prefix_len,
                duid: client,
                iaid: row.iaid,
                preferred_lft: row.preferred_lft,
            }
        },
        hostname: bytes(&row.hostname).into(),
        fqdn_fwd: row.fqdn_fwd != 0,
        fqdn_rev: row.fqdn_rev != 0,
        subnet_id: row.subnet_id,
        pool_id: row.pool_id,
        cltt: row.cltt,
        valid_lft: row.valid_lft,
        user_context: String::from_utf8_lossy(bytes(&row.user_context)).into(),
    }
}

/// The bytes that a row borrows.
fn bytes(borrowed: &abi::dhcp_etcd_bytes) -> &[u8] {
    if borrowed.data.is_null() || borrowed.len == 0 {
        return &[];
    }
    // SAFETY: the shim points at `len` bytes of a lease that it holds for the whole call in which this row is shown, and
    // the slice is copied within that call.
    unsafe { std::slice::from_raw_parts(borrowed.data, borrowed.len) }
}

const _: () = {
    use abi::{DHCP_ETCD_INFINITE_LIFETIME, dhcp_etcd_state as state};
    assert!(lease::INFINITE_LIFETIME == DHCP_ETCD_INFINITE_LIFETIME);
    assert!(lease::STATE_ASSIGNED == state::DHCP_ETCD_STATE_ASSIGNED);
    assert!(lease::STATE_DECLINED == state::DHCP_ETCD_STATE_DECLINED);
    assert!(lease::STATE_EXPIRED_RECLAIMED == state::DHCP_ETCD_STATE_EXPIRED_RECLAIMED);
    assert!(lease::STATE_RELEASED == state::DHCP_ETCD_STATE_RELEASED);
};

/// The running server, as the mirror sees it.
struct KeaServer;

impl Kea for KeaServer {
    fn read_lease(&self, address: IpAddr, lease_type: LeaseType) -> Result<Option<Lease>, String> {
        let mut reader = LeaseReader::default();
        let kind = match lease_type {
            LeaseType::Na => abi::dhcp_etcd_type::DHCP_ETCD_TYPE_NA,
            LeaseType::Ta => abi::dhcp_etcd_type::DHCP_ETCD_TYPE_TA,
            LeaseType::Pd => abi::dhcp_etcd_type::DHCP_ETCD_TYPE_PD,
        };
        match address {
            IpAddr::V4(address) => ffi::read_lease4(address.to_bits(), &mut reader),
            #[allow(clippy::cast_possible_truncation, reason = "the types are numbered 0 to 3")]
            IpAddr::V6(address) => ffi::read_lease6(&address.octets(), kind as u8, &mut reader),
        }
        .map_err(|exception| exception.what().to_owned())?;
        Ok(reader.lease)
    }

    fn read_page(&self, after: IpAddr, limit: usize) -> Result<Vec<Lease>, String> {
        let mut reader = PageReader { leases: Vec::with_capacity(limit) };
        match after {
            IpAddr::V4(after) => ffi::read_page4(after.to_bits(), limit, &mut reader),
            IpAddr::V6(after) => ffi::read_page6(&after.octets(), limit, &mut reader),
        }
        .map_err(|exception| exception.what().to_owned())?;
        Ok(reader.leases)
    }

    fn version(&self) -> String {
        ffi::kea_version()
    }

    fn on_main_thread(&self) -> bool {
        // SAFETY: neither call takes an argument or can fail (gettid(2), getpid(2)).
        unsafe { libc::gettid() == libc::getpid() }
    }

    fn lease_database_open(&self) -> bool {
        ffi::lease_database_open().unwrap_or(false)
    }

    fn lease_database_in_memory(&self) -> bool {
        ffi::lease_database_in_memory().unwrap_or(false)
    }

    fn track_lease_database(&self) -> bool {
        ffi::track_lease_database().unwrap_or_else(|exception| {
            error!(target: messages::BUG, "the lease database tells no changes: {}", exception.what());
            false
        })
    }

    fn wake_main_loop(&self) {
        ffi::wake_main_loop();
    }

    fn give_way(&self) {
        // SAFETY: it takes a number. On Linux it changes the calling thread only, and those that it starts from then on
        // (nice(2)); that needs no right and ends at 19. Where it is refused the worker runs as before.
        let _ = unsafe { libc::nice(GIVES_WAY) };
    }

    fn set_statistic(&self, name: &str, value: i64) {
        if let Err(exception) = ffi::set_statistic(name, value) {
            error!(target: messages::BUG, "statistic {name}: {}", exception.what());
        }
    }

    fn without_signals(&self, start: &mut dyn FnMut()) {
        // SAFETY: both sets are initialised by the calls that get them first; the mask is put back as it was. Signals are
        // Kea's to handle, and a SIGPIPE from a closed connection would end it: threads started here take none.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            start();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        }
    }
}

/// Kea's log, logger `etcd-hooks`.
struct KeaLog;

impl Log for KeaLog {
    fn enabled(&self, level: Level) -> bool {
        level <= Level::INFO || severity(level) <= ffi::log_verbosity().unwrap_or(0)
    }

    fn line(&self, level: Level, id: &str, text: &str) {
        // Where the log itself fails there is nowhere to say so.
        let _ = ffi::log_line(severity(level), id, text);
    }
}

fn severity(level: Level) -> u32 {
    match level {
        Level::ERROR => abi::dhcp_etcd_severity::DHCP_ETCD_LOG_ERROR,
        Level::WARN => abi::dhcp_etcd_severity::DHCP_ETCD_LOG_WARN,
        Level::INFO => abi::dhcp_etcd_severity::DHCP_ETCD_LOG_INFO,
        Level::DEBUG => abi::dhcp_etcd_severity::DHCP_ETCD_LOG_DEBUG,
        Level::TRACE => abi::dhcp_etcd_severity::DHCP_ETCD_LOG_TRACE,
    }
}

/// The one global. The code is never unmapped, so it survives an unload and says itself what is loaded.
#[derive(Default)]
struct Loaded {
    mirror: Option<Mirror<KeaServer>>,
    /// What the load before could not write.
    unwritten: Changes,
}

/// Callouts hold it for reading, so that an unload waits for those under way; load and unload hold it for writing.
fn loaded() -> &'static RwLock<Loaded> {
    static LOADED: OnceCell<RwLock<Loaded>> = OnceCell::new();
    LOADED.get_or_init(RwLock::default)
}

/// Runs `work`; a panic in it becomes a log line and `None`.
fn never_unwind<T>(what: &str, work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| {
            let reason = panic.downcast_ref::<String>().map(String::as_str);
            let reason = reason.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            // Logging must not be what unwinds.
            let _ = catch_unwind(|| error!(target: messages::BUG, "{what} panicked: {reason}"));
        })
        .ok()
}

/// The lease database has written a row, or deleted it. Kea holds the lock of the database meanwhile.
fn lease_written(row: &LeaseRow, deleted: bool) {
    never_unwind("a written lease", || {
        // Never waits: whoever loads or unloads might wait for the lease database. The next load compares everything.
        let Ok(loaded) = loaded().try_read() else { return };
        let Some(mirror) = &loaded.mirror else { return };
        let held = !deleted && lease::is_held(row.state, row.valid_lft);
        let gone = if held { None } else { Some(copy(row).owner()) };
        mirror.written(address(row), lease_type(row.type_), gone);
    });
}

/// Kea's main loop was woken.
fn main_loop_turn() {
    let turned = with_mirror("the main loop's turn", |mirror| {
        mirror.turn();
        Ok(())
    });
    if !turned {
        turn_failed();
    }
}

fn turn_failed() {
    with_mirror("after a failed turn", |mirror| {
        mirror.turn_failed();
        Ok(())
    });
}

/// One of the library's own commands, as JSON text; the answer.
fn own_command(command: &str) -> String {
    let answered = never_unwind("a command", || {
        let loaded = loaded().read().unwrap_or_else(PoisonError::into_inner);
        loaded.mirror.as_ref().map(|mirror| mirror.own_command(command).to_string())
    });
    if answered.is_none() {
        // It makes turns while it waits.
        turn_failed();
    }
    answered.flatten().unwrap_or_else(|| r#"{"result":1,"text":"the library is not loaded"}"#.into())
}

/// Runs `work` on what is loaded; whether it did not panic.
fn with_mirror(what: &str, work: impl FnOnce(&Mirror<KeaServer>) -> Result<(), cxx::Exception>) -> bool {
    let done = never_unwind(what, || {
        let loaded = loaded().read().unwrap_or_else(PoisonError::into_inner);
        let Some(mirror) = &loaded.mirror else { return };
        if let Err(exception) = work(mirror) {
            error!(target: messages::BUG, "{what}: {}", exception.what());
        }
    });
    done.is_some()
}

/// `KEA_HOOKS_VERSION` of the headers that the library was built against; Kea loads no other.
#[unsafe(no_mangle)]
pub extern "C" fn version() -> c_int {
    ffi::hooks_version()
}

/// Packet threads may call every callout.
#[unsafe(no_mangle)]
pub extern "C" fn multi_threading_compatible() -> c_int {
    1
}

/// Kea loads the library: reads the parameters, and asks for the first turn of the main loop.
///
/// # Safety
/// `handle` is Kea's, valid for the call (Kea `library_manager.cc`, `runLoad`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn load(handle: *mut LibraryHandle) -> c_int {
    let result = never_unwind("load", || {
        // SAFETY: see above; Kea's reference is a pointer in the ABI.
        let handle = unsafe { Pin::new_unchecked(&mut *handle) };
        try_load(handle)
    });
    c_int::from(result != Some(true))
}

fn try_load(mut handle: Pin<&mut LibraryHandle>) -> bool {
    for (id, _) in messages::ALL {
        let _ = ffi::add_message(id);
    }
    log::install(KeaLog);
    let parameters = ffi::check_states()
        .and_then(|()| commands::NAMES.iter().try_for_each(|name| ffi::register_command(handle.as_mut(), name)))
        .and_then(|()| ffi::process_name())
        .and_then(|process| Ok((process, ffi::parameters(handle)?)));
    let (process, parameters) = match parameters {
        Ok(both) => both,
        Err(exception) => {
            error!(target: messages::LOAD_FAILED, "{}", exception.what());
            return false;
        }
    };
    let family = match process.as_str() {
        "kea-dhcp4" => Family::V4,
        "kea-dhcp6" => Family::V6,
        _ => {
            error!(target: messages::LOAD_FAILED, "the process is '{process}', accepted are kea-dhcp4 and kea-dhcp6");
            return false;
        }
    };
    // There may be a password in it.
    let parameters = Zeroizing::new(parameters);
    let checked =
        Config::parse(&parameters).and_then(|config| credential_files::check(&config.credentials).map(|()| config));
    let config = match checked {
        Ok(config) => config,
        Err(error) => {
            error!(target: messages::BAD_PARAMETER, "{error}");
            return false;
        }
    };
    info!(
        target: messages::LOADED,
        "dhcp_etcd {} as server {}, prefix {}, endpoints {}",
        env!("CARGO_PKG_VERSION"), config.server_name, config.prefix, config.endpoints.join(" ")
    );
    for (parameter, file) in credential_files::open_to_others(&config.credentials) {
        let file = file.display();
        warn!(target: messages::OPEN_SECRET, "parameter '{parameter}': others than owner and group may read {file}");
    }
    {
        let mut loaded = loaded().write().unwrap_or_else(PoisonError::into_inner);
        let unwritten = std::mem::take(&mut loaded.unwritten);
        loaded.mirror = Some(Mirror::new(KeaServer, family, config, unwritten));
    }
    if let Err(exception) = ffi::listen_main_loop() {
        error!(target: messages::LOAD_FAILED, "{}", exception.what());
        return false;
    }
    ffi::wake_main_loop();
    true
}

/// Kea unloads the library, also one whose `load` failed.
#[unsafe(no_mangle)]
pub extern "C" fn unload() -> c_int {
    let done = never_unwind("unload", || {
        let _ = ffi::leave_main_loop();
        let _ = ffi::leave_lease_database();
        let mirror = loaded().write().unwrap_or_else(PoisonError::into_inner).mirror.take();
        if let Some(mirror) = mirror {
            let unwritten = mirror.stop();
            loaded().write().unwrap_or_else(PoisonError::into_inner).unwritten = unwritten;
        }
    });
    c_int::from(done.is_none())
}

fn shown4(handle: Pin<&mut CalloutHandle>) -> Result<LeaseReader, cxx::Exception> {
    let mut reader = LeaseReader::default();
    ffi::show_lease4(handle, &mut reader).map(|()| reader)
}

fn shown6(handle: Pin<&mut CalloutHandle>) -> Result<LeaseReader, cxx::Exception> {
    let mut reader = LeaseReader::default();
    ffi::show_lease6(handle, &mut reader).map(|()| reader)
}

/// Tells the mirror what is about to happen to a lease, if a callout shows one. When it is of another packet than the
/// callout before, what that told is forgotten.
fn about_to(mirror: &Mirror<KeaServer>, operation: Operation, address: IpAddr, is_other_packet: bool) {
    if is_other_packet {
        mirror.forget_hints();
    }
    if !address.is_unspecified() {
        mirror.about_to(operation, address);
    }
}

/// The same of the lease that a callout of DHCPv4 shows. Only its address is looked at.
fn about_to4(
    mirror: &Mirror<KeaServer>,
    operation: Operation,
    mut handle: Pin<&mut CalloutHandle>,
) -> Result<(), cxx::Exception> {
    let address = v4(ffi::lease4_address(handle.as_mut())?);
    about_to(mirror, operation, address, ffi::remember_packet4(handle)?);
    Ok(())
}

/// The same of a lease of DHCPv6, at the address that `shown` finds in the callout.
fn about_to6(
    mirror: &Mirror<KeaServer>,
    operation: Operation,
    mut handle: Pin<&mut CalloutHandle>,
    shown: fn(Pin<&mut CalloutHandle>) -> Result<[u8; 16], cxx::Exception>,
) -> Result<(), cxx::Exception> {
    let address = v6(shown(handle.as_mut())?);
    about_to(mirror, operation, address, ffi::remember_packet6(handle)?);
    Ok(())
}

/// Tells the mirror that reclamation is about to take the lease that a callout shows.
fn reclaiming(mirror: &Mirror<KeaServer>, operation: Operation, shown: &LeaseReader) {
    if let (Some(lease), Some(lease_type)) = (&shown.lease, shown.lease_type) {
        mirror.reclaiming(lease, lease_type, operation);
    }
}

/// The callouts, by the names that Kea looks up. Their arguments and order are those of Kea's hook points
/// (`src/bin/dhcp4/dhcp4_hooks.dox`, `src/bin/dhcp6/dhcp6_hooks.dox`). None stands at `lease4_select` and `lease6_select`,
/// which every new client passes twice: a lease that was committed and of which nobody told what is about to happen to it
/// is newly assigned. Nor does one stand at `lease4_release` and `lease6_release`, for which Kea would fill in arguments:
/// `leases4_committed` and `leases6_committed` show what was given back among what was deleted, also where Kea keeps the row for
/// the client (2.4 and later, lease affinity), and a record that goes has no operation.
macro_rules! callouts {
    ($($(#[doc = $doc:literal])+ $name:ident => $work:expr;)+) => {
        $(
            $(#[doc = $doc])+
            ///
            /// # Safety
            /// `handle` is Kea's, valid for the call (Kea `callout_manager.cc`, `callCallouts`).
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name(handle: *mut CalloutHandle) -> c_int {
                let work: fn(&Mirror<KeaServer>, Pin<&mut CalloutHandle>) -> Result<(), cxx::Exception> = $work;
                with_mirror(stringify!($name), |mirror| {
                    // SAFETY: see above; Kea's reference is a pointer in the ABI.
                    work(mirror, unsafe { Pin::new_unchecked(&mut *handle) })
                });
                0 // a callout that fails is our affair, Kea goes on
            }
        )+
    };
}

callouts! {
    /// The server is configured.
    dhcp4_srv_configured => |mirror, _| { mirror.configured(); Ok(()) };
    /// The server is configured.
    dhcp6_srv_configured => |mirror, _| { mirror.configured(); Ok(()) };

    /// The holder renews.
    lease4_renew => |mirror, handle| about_to4(mirror, Operation::Renew, handle);
    /// The holder found the address in use.
    lease4_decline => |mirror, handle| about_to4(mirror, Operation::Decline, handle);
    /// A DISCOVER was answered (Kea 2.6): with `offer-lifetime`, the lease is written already.
    lease4_offer => |mirror, handle| ffi::show_offer4(handle, &mut Exchange { mirror });
    /// An address that was offered is in use (Kea 2.6): it has been declined.
    lease4_server_decline => |mirror, handle| {
        let address = v4(ffi::lease4_address(handle)?);
        if !address.is_unspecified() {
            mirror.declined(address);
        }
        Ok(())
    };
    /// A lease is past its end and about to be reclaimed.
    lease4_expire => |mirror, handle| { reclaiming(mirror, Operation::Update, &shown4(handle)?); Ok(()) };
    /// The probation of a declined address is over.
    lease4_recover => |mirror, handle| { reclaiming(mirror, Operation::Recover, &shown4(handle)?); Ok(()) };
    /// The lease database has been written for a client's message.
    leases4_committed => |mirror, handle| ffi::show_exchange4(handle, &mut Exchange { mirror });

    /// The holder renews.
    lease6_renew => |mirror, handle| about_to6(mirror, Operation::Renew, handle, ffi::lease6_address);
    /// The holder rebinds.
    lease6_rebind => |mirror, handle| about_to6(mirror, Operation::Rebind, handle, ffi::lease6_address);
    /// The holder found the address in use.
    lease6_decline => |mirror, handle| about_to6(mirror, Operation::Decline, handle, ffi::lease6_address);
    /// A client tells an address that it made up itself (RFC 9686, Kea 3.0). `leases6_committed` follows the write.
    addr6_register => |mirror, handle| about_to6(mirror, Operation::Renew, handle, ffi::registered6_address);
    /// A lease is past its end and about to be reclaimed.
    lease6_expire => |mirror, handle| { reclaiming(mirror, Operation::Update, &shown6(handle)?); Ok(()) };
    /// The probation of a declined address is over.
    lease6_recover => |mirror, handle| { reclaiming(mirror, Operation::Recover, &shown6(handle)?); Ok(()) };
    /// The lease database has been written for a client's message.
    leases6_committed => |mirror, handle| ffi::show_exchange6(handle, &mut Exchange { mirror });

    /// A command has been carried out.
    command_processed => |mirror, mut handle| {
        let name = ffi::command_name(handle.as_mut())?;
        if name.starts_with("lease") || name == "ha-sync" {
            mirror.command(&name, &ffi::command_arguments(handle)?);
        }
        Ok(())
    };
}
