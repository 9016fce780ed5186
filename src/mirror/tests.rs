use super::*;
use crate::lease::Identifier;
use crate::record::v4;

/// A server with one lease, of 192.0.2.1.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a way that a server can be")]
struct OneLease {
    on_main_thread: bool,
    tracks: bool,
    in_memory: bool,
    is_closed: std::sync::atomic::AtomicBool,
    /// Reading takes long, and fails.
    is_away: bool,
    /// No worker is started: its tick would come whenever that thread runs.
    has_no_threads: bool,
    readings: std::sync::atomic::AtomicUsize,
}

impl Kea for OneLease {
    fn read_lease(&self, address: IpAddr, _: LeaseType) -> Result<Option<Lease>, String> {
        self.readings.fetch_add(1, Ordering::Relaxed);
        if self.is_away {
            std::thread::sleep(TURN);
            return Err("away".into());
        }
        Ok(Some(Lease::plain_v4(0xc000_0201)).filter(|lease| lease.address == address))
    }
    fn read_page(&self, _: IpAddr, _: usize) -> Result<Vec<Lease>, String> {
        Ok(Vec::new())
    }
    fn version(&self) -> String {
        "2.2.0".into()
    }
    fn on_main_thread(&self) -> bool {
        self.on_main_thread
    }
    fn lease_database_open(&self) -> bool {
        !self.is_closed.load(Ordering::Relaxed)
    }
    fn lease_database_in_memory(&self) -> bool {
        self.in_memory
    }
    fn track_lease_database(&self) -> bool {
        self.tracks
    }
    fn wake_main_loop(&self) {}
    fn give_way(&self) {}
    fn set_statistic(&self, _: &str, _: i64) {}
    fn without_signals(&self, start: &mut dyn FnMut()) {
        if !self.has_no_threads {
            start();
        }
    }
}

fn mirror(on_main_thread: bool) -> Mirror<OneLease> {
    let kea = OneLease { on_main_thread, ..OneLease::default() };
    Mirror::new(kea, Family::V4, Config::parse("{}").unwrap(), Changes::default())
}

/// A mirror of a database in memory.
fn in_turns(parameters: &str) -> Mirror<OneLease> {
    let kea = OneLease { on_main_thread: true, in_memory: true, ..OneLease::default() };
    let mirror = Mirror::new(kea, Family::V4, Config::parse(parameters).unwrap(), Changes::default());
    mirror.configured();
    mirror
}

/// The turn that comes with the worker's tick.
fn ticked(mirror: &Mirror<OneLease>) {
    mirror.shared.ticked.store(true, Ordering::Relaxed);
    mirror.turn();
}

fn shown() -> Shown {
    Shown::new(|| Some(Lease { subnet_id: 2, ..Lease::plain_v4(0xc000_0201) }))
}

/// A mirror that is told every write.
fn tracking() -> Mirror<OneLease> {
    let kea =
        OneLease { on_main_thread: true, tracks: true, in_memory: true, has_no_threads: true, ..OneLease::default() };
    let mirror = Mirror::new(kea, Family::V4, Config::parse("{}").unwrap(), Changes::default());
    mirror.configured();
    mirror
}

fn wanted(on_main_thread: bool, command: &str, arguments: &str) -> Option<&'static str> {
    let mirror = mirror(on_main_thread);
    mirror.command(command, arguments);
    mirror.shared.control.next(false).map(|(_, reason)| reason)
}

#[test]
fn commands_that_name_no_address_want_a_comparison() {
    assert_eq!(wanted(true, "lease4-wipe", "null"), Some("lease4-wipe"));
    assert_eq!(wanted(true, "ha-sync", r#"{"server-name":"b"}"#), Some("ha-sync"));
    let by_hwaddr = r#"{"identifier-type":"hw-address","identifier":"01:02","subnet-id":1}"#;
    assert_eq!(wanted(true, "lease4-del", by_hwaddr), Some("command that names no address"));
    assert_eq!(wanted(true, "lease4-get-all", "null"), None);
    assert_eq!(wanted(true, "leases-reclaim", r#"{"remove":true}"#), None, "its callouts have marked the addresses");
    assert_eq!(wanted(false, "leases-reclaim", r#"{"remove":true}"#), Some("leases-reclaim"));
}

#[test]
fn commands_that_name_addresses_have_them_read() {
    let mirror = mirror(true);
    mirror.command("lease4-update", r#"{"ip-address":"192.0.2.1"}"#);
    mirror.command("lease4-del", r#"{"ip-address":"192.0.2.2"}"#);
    mirror.command("lease6-del", r#"{"ip-address":"2001:db8::1"}"#);
    let changes = mirror.shared.handover.take(Changes::default());
    assert_eq!(changes.len(), 2, "the other family's addresses are the other server's");
    let of = |address: &str| &changes[&address.parse::<IpAddr>().unwrap()];
    assert!(matches!(of("192.0.2.1").row, Row::Held { .. }));
    assert!(matches!(of("192.0.2.2").row, Row::Gone { .. }));
    assert_eq!(mirror.shared.control.next(false), None);
}

#[test]
fn what_cannot_be_read_rests_and_a_turn_takes_no_longer_than_it_may() {
    let kea = OneLease { on_main_thread: true, is_away: true, ..OneLease::default() };
    let mirror = Mirror::new(kea, Family::V4, Config::parse("{}").unwrap(), Changes::default());
    *lock(&mirror.failed.1) = Instant::now() + 1000 * REST;
    for n in 1..=3 {
        mirror.reclaiming(&Lease::plain_v4(n), LeaseType::Na, Operation::Update);
    }
    let turned = |mirror: &Mirror<OneLease>| {
        mirror.read(Instant::now() + TURN);
        (mirror.kea.readings.load(Ordering::Relaxed), mirror.shared.readings.take_unfinished())
    };
    assert_eq!([turned(&mirror), turned(&mirror), turned(&mirror)], [(1, true), (2, true), (3, false)]);
    assert_eq!(turned(&mirror), (3, false), "they rest");
    *lock(&mirror.failed.1) = Instant::now().checked_sub(REST).unwrap();
    assert_eq!(turned(&mirror), (4, true));
}

const HELD: &str = "192.0.2.1";

#[test]
fn what_was_committed_is_read_at_the_next_turn() {
    let mirror = in_turns("{}");
    let address = HELD.parse().unwrap();
    mirror.assigned(address, LeaseType::Na, None, shown());
    mirror.removed(&Lease::plain_v4(0xc000_0202), LeaseType::Na);
    assert_eq!(mirror.kea.readings.load(Ordering::Relaxed), 0);
    mirror.read(Instant::now() + TURN);
    let changes = mirror.shared.handover.take(Changes::default());
    let lease = Lease::plain_v4(0xc000_0201);
    assert_eq!(changes[&address].row, Row::Held { lease, relay: None }, "as the database has it");
    let gone = Some(Lease::plain_v4(0xc000_0202).owner());
    assert_eq!(changes[&v4(0xc000_0202)].row, Row::Gone { owner: gone });
}

#[test]
fn the_end_of_a_lease_whose_address_was_taken_over_is_no_news_of_the_new_one() {
    let mirror = in_turns("{}");
    let (ended, relay) = (Lease { hwaddr: Identifier::from_slice(&[1]), ..Lease::plain_v4(0xc000_0201) }, v4(1));
    for removed in [false, true] {
        if !removed {
            mirror.reclaiming(&ended, LeaseType::Na, Operation::Update);
        }
        mirror.assigned(ended.address, LeaseType::Na, Some(relay), shown());
        if removed {
            mirror.removed(&ended, LeaseType::Na);
        }
        mirror.read(Instant::now() + TURN);
        let change = &mirror.shared.handover.take(Changes::default())[&ended.address];
        let lease = Lease::plain_v4(0xc000_0201);
        assert_eq!((change.operation, &change.row), (Operation::Offer, &Row::Held { lease, relay: Some(relay) }));
    }
    assert!(mirror.shared.readings.take_suspects().is_empty());
    mirror.removed(&ended, LeaseType::Na);
    mirror.read(Instant::now() + TURN);
    assert_eq!(mirror.shared.readings.take_suspects(), [ended.address], "nobody told of that lease");
    assert!(mirror.shared.handover.take(Changes::default()).is_empty());
}

#[test]
fn a_comparison_reads_after_everything_that_was_committed_before() {
    let mirror = in_turns("{}");
    let ticket = crate::readings::Ticket { number: 1, after: v4(0) };
    mirror.shared.readings.want_page(ticket);
    for n in 1..=2 {
        mirror.assigned(v4(n), LeaseType::Na, None, shown());
    }
    // Late, so it reads one address only.
    for (waiting, is_read) in [(1, false), (0, true)] {
        mirror.read(Instant::now());
        assert_eq!(mirror.shared.waiting(), 2);
        assert_eq!(mirror.shared.committed.len(), waiting);
        assert_eq!(mirror.shared.readings.take_page(ticket).is_some(), is_read);
        assert_eq!(mirror.shared.readings.take_unfinished(), !is_read, "another turn is wanted");
    }
}

#[test]
fn what_a_turn_has_no_room_for_is_read_at_once() {
    let mirror = in_turns(r#"{"queue-size":16}"#);
    for n in 1..=17 {
        mirror.assigned(v4(n), LeaseType::Na, None, shown());
    }
    assert_eq!(mirror.shared.committed.len(), 16);
    assert_eq!(mirror.kea.readings.load(Ordering::Relaxed), 1);
}

#[test]
fn what_was_not_read_when_kea_ends_is_taken_as_it_was_shown() {
    let mirror = in_turns("{}");
    let address = HELD.parse().unwrap();
    mirror.assigned(address, LeaseType::Na, None, shown());
    mirror.removed(&Lease::plain_v4(0xc000_0202), LeaseType::Na);
    // Before somebody else got the address.
    let before = Lease { hwaddr: Identifier::from_slice(&[1]), ..Lease::plain_v4(0xc000_0201) };
    mirror.removed(&before, LeaseType::Na);
    mirror.kea.is_closed.store(true, Ordering::Relaxed);
    let changes = mirror.stop();
    let lease = Lease { subnet_id: 2, ..Lease::plain_v4(0xc000_0201) };
    assert_eq!(changes[&address].row, Row::Held { lease, relay: None });
    let gone = Some(Lease::plain_v4(0xc000_0202).owner());
    assert_eq!(changes[&v4(0xc000_0202)].row, Row::Gone { owner: gone });
    assert_eq!(changes.len(), 2);
}

#[test]
fn a_write_that_a_callout_tells_is_read_once() {
    let mirror = tracking();
    let address = HELD.parse().unwrap();
    mirror.about_to(Operation::Renew, address);
    mirror.written(address, LeaseType::Na, None);
    mirror.assigned(address, LeaseType::Na, None, shown());
    mirror.read(Instant::now() + TURN);
    let changes = mirror.shared.handover.take(Changes::default());
    assert_eq!(changes[&address].operation, Operation::Renew);
    ticked(&mirror);
    assert_eq!(mirror.shared.handover.take(Changes::default()).len(), 0);
    assert!(mirror.shared.readings.take_suspects().is_empty());
}

#[test]
fn a_write_that_no_callout_tells_makes_a_suspect() {
    let mirror = tracking();
    let address = HELD.parse().unwrap();
    mirror.written(address, LeaseType::Na, None);
    mirror.turn();
    assert!(mirror.shared.readings.take_suspects().is_empty(), "a callout may follow");
    ticked(&mirror);
    assert_eq!(mirror.shared.readings.take_suspects(), [address]);
    assert_eq!(mirror.shared.handover.take(Changes::default()).len(), 0);
}

#[test]
fn a_removal_that_no_callout_tells_is_about_the_lease_that_went() {
    let mirror = tracking();
    let mut lease = Lease::plain_v4(0xc000_0202);
    lease.hostname = b"printer".as_slice().into();
    mirror.reclaiming(&lease, LeaseType::Na, Operation::Update);
    // Kea clears the name before it writes.
    let unnamed = Owner { hostname: [].into(), ..lease.owner() };
    mirror.written(lease.address, LeaseType::Na, Some(unnamed));
    mirror.turn();
    let changes = mirror.shared.handover.take(Changes::default());
    assert_eq!(changes[&lease.address].row, Row::Gone { owner: Some(lease.owner()) });
}

#[test]
fn a_removal_that_nobody_told_names_no_owner_and_one_that_a_partner_told_does() {
    for (partner_tells, owner_is_told) in [(false, false), (true, true)] {
        let mirror = tracking();
        let lease = Lease::plain_v4(0xc000_0202);
        mirror.written(lease.address, LeaseType::Na, Some(lease.owner()));
        if partner_tells {
            mirror.command("lease4-del", r#"{"ip-address":"192.0.2.2","origin":"ha-partner"}"#);
        }
        ticked(&mirror);
        let changes = mirror.shared.handover.take(Changes::default());
        let owner = owner_is_told.then(|| lease.owner());
        assert_eq!(changes[&lease.address].row, Row::Gone { owner });
    }
}

#[test]
fn what_the_partner_of_a_pair_has_told_is_looked_at_and_not_written_once_more() {
    let mirror = tracking();
    let address = HELD.parse().unwrap();
    mirror.written(address, LeaseType::Na, None);
    mirror.command("lease4-update", r#"{"ip-address":"192.0.2.1","origin":"ha-partner"}"#);
    assert_eq!(mirror.shared.handover.take(Changes::default()).len(), 0);
    ticked(&mirror);
    assert_eq!(mirror.shared.readings.take_suspects(), [address]);
}

#[test]
fn a_database_that_tells_every_write_needs_no_comparison_after_commands() {
    let mirror = tracking();
    for (command, arguments) in [
        ("lease4-wipe", "null"),
        ("ha-sync", "{}"),
        ("lease4-del", r#"{"identifier":"01:02"}"#),
        ("leases-reclaim", "{}"),
    ] {
        mirror.command(command, arguments);
        assert_eq!(mirror.shared.control.next(false), None, "{command}");
    }
}

#[test]
fn what_was_told_takes_the_place_of_a_change_that_was_settled_and_a_finding_does_not() {
    let mirror = mirror(true);
    let shared = &mirror.shared;
    let settled = || {
        let row = Row::Gone { owner: None };
        Box::new(Change { timestamp: 1, queued: None, operation: Operation::Offer, row })
    };
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let place_of = |commit| {
        mirror.read_again(commit);
        let change = shared.handover.take(Changes::default()).remove(&address).unwrap();
        &raw const *change
    };
    let spent = settled();
    let place = &raw const *spent;
    shared.spent.take_back(&mut vec![spent]);
    assert_ne!(place_of(Commit::of(address, LeaseType::Na, Operation::Sync)), place);
    assert_eq!(place_of(Commit::of(address, LeaseType::Na, Operation::Renew)), place);
}
