//! How records vanish by themselves when no server is left to remove them: they hang on etcd leases that end some time
//! after the DHCP lease does. No I/O.
//!
//! An etcd lease for each record would cost one raft entry a grant and one a renewal, so records that end within the same
//! window share one. A window is a sixteenth to a thirty-second of the time that is left, so leases of an hour need some
//! thirty etcd leases, and a mix of everything between minutes and a year a few hundred.
//!
//! The id of an etcd lease tells when it ends and whose it is. So a server that starts again goes on with the etcd
//! leases that it granted before, no matter how often, and a comparison sees whether a record hangs on the right one.
//! Servers share none: the clock of one must not end the records of another.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// The shortest window, in seconds.
const SHORTEST: i64 = 32;
/// Bits of an id that tell the end, in seconds since the epoch: enough for 8,700 years.
const END_BITS: u32 = 38;
/// From here on a lease counts as one without an end: the year 2242. etcd takes no time to live above 9,000,000,000 s
/// (`lease.MaxLeaseTTL`), while Kea's commands take any number for the end of a lease.
const FAR: i64 = 1 << 33;
const END_MASK: i64 = (1 << END_BITS) - 1;

/// Whether a lease is past its end and the `grace` after that, in which its record stays.
#[must_use]
pub fn has_passed(expires_at: Option<i64>, grace: i64, now: i64) -> bool {
    expires_at.is_some_and(|end| end.saturating_add(grace) < now)
}

/// An etcd lease for the records of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// The id of the etcd lease.
    pub id: i64,
    /// When it ends, seconds since the epoch.
    pub end: i64,
}

/// The windows of one server.
#[derive(Clone, Debug)]
pub struct Lifetime {
    /// Marks the server's own ids: 24 bits above those of the end.
    owner: i64,
    /// Seconds that a record stays after its lease ended.
    grace: i64,
}

impl Lifetime {
    /// The windows of the server `server` (kea-dhcp4 or kea-dhcp6 of that name, by `family`) below `prefix`.
    #[must_use]
    pub fn new(prefix: &str, server: &str, family: &str, grace: i64) -> Self {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((prefix, server, family));
        // 24 bits of the hash, and never none of them: etcd takes 0 for "no lease".
        let owner = i64::try_from(hash >> 40).unwrap_or(0).max(1);
        Self { owner: owner << END_BITS, grace }
    }

    /// When a record whose lease ends at `expires_at` may vanish; `None` when never.
    fn end_of_record(&self, expires_at: Option<i64>) -> Option<i64> {
        expires_at.map(|end| end.saturating_add(self.grace)).filter(|end| *end < FAR)
    }

    /// The window of a record whose lease ends at `expires_at`; `None` for a lease without an end.
    #[must_use]
    pub fn window(&self, expires_at: Option<i64>, now: i64) -> Option<Window> {
        // A lease that is past its end and written all the same (just added so) goes after the shortest window.
        let end = self.end_of_record(expires_at)?.max(now + 1);
        let left = u64::try_from(end - now).unwrap_or(1);
        let width = i64::try_from((1_u64 << left.ilog2()) / 16).unwrap_or(SHORTEST).max(SHORTEST);
        let end = (end + width - 1) / width * width;
        Some(Window { id: self.owner | end, end })
    }

    /// Whether a record whose lease ends at `expires_at` may hang on the etcd lease `id` (0: on none).
    #[must_use]
    pub fn fits(&self, id: i64, expires_at: Option<i64>) -> bool {
        let Some(end) = self.end_of_record(expires_at) else { return id == 0 };
        id & !END_MASK == self.owner && Self::end(id) >= end
    }

    /// When the etcd lease `id` of a window ends, seconds since the epoch.
    #[must_use]
    pub fn end(id: i64) -> i64 {
        id & END_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const NOW: i64 = 1_700_000_000;

    fn lifetime() -> Lifetime {
        Lifetime::new("/nnoe/dhcp", "a", "dhcp4", 120)
    }

    #[test]
    fn a_lease_without_an_end_has_no_window() {
        assert_eq!(lifetime().window(None, NOW), None);
        assert!(lifetime().fits(0, None));
        assert!(!lifetime().fits(0, Some(NOW)));
    }

    #[test]
    fn an_end_that_etcd_cannot_tell_is_none() {
        for end in [1_760_000_000_000, 1 << 38, i64::MAX, i64::MAX - 1] {
            assert_eq!(lifetime().window(Some(end), NOW), None);
            assert!(lifetime().fits(0, Some(end)));
        }
    }

    #[test]
    fn servers_share_no_etcd_lease() {
        let ids: HashSet<i64> = [("a", "dhcp4"), ("a", "dhcp6"), ("b", "dhcp4")]
            .map(|(server, family)| {
                Lifetime::new("/nnoe/dhcp", server, family, 120).window(Some(NOW + 60), NOW).unwrap().id
            })
            .into();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn a_million_records_of_every_length_hang_on_a_few_hundred_etcd_leases() {
        // Two weeks of a server with lifetimes of minutes, hours, a day and a week: what is alive at its end.
        let (lifetime, end) = (lifetime(), NOW + 14 * 86_400);
        let mut alive = HashSet::new();
        for written in (NOW..end).step_by(7) {
            for valid in [300, 3600, 4 * 3600, 86_400, 7 * 86_400] {
                let window = lifetime.window(Some(written + valid), written).unwrap();
                if window.end >= end {
                    alive.insert(window.id);
                }
            }
        }
        println!("{} etcd leases", alive.len());
        assert!(alive.len() < 200, "{}", alive.len());
    }

    proptest! {
        #[test]
        fn a_record_outlives_its_lease_by_the_grace_and_at_most_one_window(left in -1_000_000..0xffff_ffff_i64) {
            let expires_at = NOW + left;
            let window = lifetime().window(Some(expires_at), NOW).unwrap();
            let end = (expires_at + 120).max(NOW + 1);
            prop_assert!(window.id > 0);
            prop_assert!(window.end >= end);
            prop_assert!(window.end - end <= SHORTEST.max((end - NOW) / 16));
            prop_assert!(lifetime().fits(window.id, Some(expires_at)));
            prop_assert!(!lifetime().fits(window.id, Some(window.end)));
        }
    }
}
