//! Identifiers of the lines in Kea's log. A tracing event carries one as its target; events of other crates have other
//! targets and stay out of the log.

macro_rules! messages {
    ($($(#[doc = $doc:literal])+ $name:ident = $id:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $id;)+

        /// Every identifier with its meaning, in the order of this file.
        pub const ALL: &[(&str, &str)] = &[$(($id, concat!($($doc),+))),+];
    };
}

messages! {
    /// The library is loaded; tells version, endpoints, prefix and server name. Nothing is sent before Kea serves.
    LOADED = "ETCD_LOADED";
    /// A parameter is unknown, of a wrong type or out of range; Kea does not start. Correct the parameter that the line names.
    BAD_PARAMETER = "ETCD_BAD_PARAMETER";
    /// The library cannot run in this process, for the reason given. It belongs into kea-dhcp4 or kea-dhcp6 of the version that it was built for.
    LOAD_FAILED = "ETCD_LOAD_FAILED";
    /// The server is configured; mirroring begins or goes on.
    CONFIGURED = "ETCD_CONFIGURED";
    /// An etcd member answers; changes are written to it. Printed when a session begins: after a start, after a failure, on another member.
    CONNECTED = "ETCD_CONNECTED";
    /// No etcd member answers; changes are kept, newest per address, and tried again with growing pauses. DHCP goes on. Check etcd and the network to it.
    UNREACHABLE = "ETCD_UNREACHABLE";
    /// A request failed on a member that answered until now; the next member is tried.
    MEMBER_FAILED = "ETCD_MEMBER_FAILED";
    /// No etcd member can be used, because one side does not take the other's certificate or there is no TLS at the other end; the line has the reason and the files. Mend those, or what etcd shows (`openssl s_client -connect` prints it); changes are kept meanwhile.
    TLS_FAILED = "ETCD_TLS_FAILED";
    /// A file that a parameter names cannot be used any more: it cannot be read, is malformed, a certificate is out of its time, or key and certificate do not belong together. Mend the file; it is read again with every attempt. A connection that stands goes on, without one changes are kept.
    BAD_FILE = "ETCD_BAD_FILE";
    /// Files of `trust-anchor`, `cert-file` or `key-file` changed; a new connection is made with them.
    FILES_CHANGED = "ETCD_FILES_CHANGED";
    /// Users other than its owner and group may read a file with a key or a password. `chmod o-r` it.
    OPEN_SECRET = "ETCD_OPEN_SECRET";
    /// etcd does not take user and password, or wants some. Correct `user`, `password` or the file of `password-file`, or the user in etcd; tried again with pauses up to 16 seconds, and at once when a file changes. Changes are kept meanwhile.
    NOT_AUTHENTICATED = "ETCD_NOT_AUTHENTICATED";
    /// etcd is out of space (alarm NOSPACE) and takes no writes. Compact, defragment and `etcdctl alarm disarm`; changes are kept meanwhile.
    NO_SPACE = "ETCD_NO_SPACE";
    /// etcd denies access to the prefix. Give the role `readwrite` on it; changes are kept meanwhile.
    DENIED = "ETCD_DENIED";
    /// etcd does not take the record of one address, for the reason given; it is left out until the lease changes again or the next comparison tries it.
    RECORD_REFUSED = "ETCD_RECORD_REFUSED";
    /// More addresses changed than `queue-size` while etcd took no writes; the changes of others are dropped, and found by a comparison of everything when etcd takes writes again. Printed once when the queue is full, and once with their number when etcd takes writes again and an eighth of it is free.
    QUEUE_OVERFLOW = "ETCD_QUEUE_OVERFLOW";
    /// All leases were compared with all records, for the reason given; tells what was missing, different or extra in etcd. That is written by then.
    RESYNC = "ETCD_RESYNC";
    /// A comparison could not read the lease database, for the reason given; it is tried again after five seconds.
    RESYNC_FAILED = "ETCD_RESYNC_FAILED";
    /// After a reconnection etcd's state cannot be shown to go on with what was written: its data may have been lost or restored from a snapshot, or the last thing written was a removal. Everything is compared.
    HISTORY = "ETCD_HISTORY";
    /// Another server writes the same presence key: two servers have the same `server-name`. Give each its own; while they share one, each takes the other's records for its own.
    NAME_TAKEN = "ETCD_NAME_TAKEN";
    /// The lease database could not be read for an address, for the reason given; its record stays as it is meanwhile, and it is read again about every second until that succeeds.
    READ_FAILED = "ETCD_READ_FAILED";
    /// Prometheus can scrape the metrics at the address that the line names.
    METRICS = "ETCD_METRICS";
    /// The metrics cannot be served at `metrics-address`, for the reason given; it is tried again every two seconds, the mirror goes on. Where the address is in use, end the other program or give another port; each server needs one of its own.
    METRICS_FAILED = "ETCD_METRICS_FAILED";
    /// Unloaded with everything written, or with what is left unwritten; what is left is written by the next load in the same process.
    UNLOADED = "ETCD_UNLOADED";
    /// The worker did not end in time and is left behind; please report this.
    WORKER_STUCK = "ETCD_WORKER_STUCK";
    /// An error in the library was caught; Kea goes on. Please report the line.
    BUG = "ETCD_BUG";
    /// One record was written or removed (debug level 40).
    LEASE = "ETCD_LEASE";
    /// Keys had been changed by somebody else and were looked at before anything was written (debug level 40).
    CONFLICT = "ETCD_CONFLICT";
    /// The connection or the watch on the records ended, or the watch missed changes (debug level 40); both begin again, where needed with a comparison.
    NOTICED = "ETCD_NOTICED";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn the_readme_documents_every_message_and_no_other() {
        let readme = include_str!("../README.md");
        for (id, meaning) in ALL {
            let row = format!("| `{id}` | {} |", meaning.trim());
            assert!(readme.contains(&row), "the README lacks the row\n{row}");
        }
        let rows = readme.lines().filter(|line| line.starts_with("| `ETCD_")).count();
        assert_eq!(rows, ALL.len());
    }
}
