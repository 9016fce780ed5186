//! Leases in PostgreSQL and in MariaDB: what holds for leases in memory holds there, also when two servers share the
//! database, and when it goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client4::Client4;
use crate::comparison::{resync, verify};
use crate::etcd::Etcd;
use crate::journal::{Journal, keep_busy};
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;
use crate::records::{self, expected};
use crate::sql::{Kind, SqlServer};
use crate::tcp_link::{Mode, TcpLink};
use crate::{life4, life6};

/// The lives of leases, each in a lease database of its own.
fn lives(kind: Kind, family: Family, threads: bool) {
    let server = SqlServer::start(kind);
    let lives: &[fn(life4::How)] = match family {
        Family::V4 => &[life4::life, life4::decline, life4::expiry, life4::taken_over, life4::fifty],
        Family::V6 => &[life6::life, life6::decline, life6::expiry, life6::taken_over, life6::commands],
    };
    for life in lives {
        let database = server.lease_database();
        life(&|wanted| database.of(wanted).threads(threads));
        assert!(server.has_counted(&database, family), "the leases were not in the database");
    }
}

#[test]
fn dhcpv4_leases_live_in_postgresql() {
    lives(Kind::PostgreSql, Family::V4, false);
}

#[test]
fn dhcpv4_leases_live_in_postgresql_with_packet_threads() {
    lives(Kind::PostgreSql, Family::V4, true);
}

#[test]
fn dhcpv6_leases_live_in_postgresql() {
    lives(Kind::PostgreSql, Family::V6, false);
}

#[test]
fn dhcpv6_leases_live_in_postgresql_with_packet_threads() {
    lives(Kind::PostgreSql, Family::V6, true);
}

#[test]
fn dhcpv4_leases_live_in_mariadb_with_packet_threads() {
    lives(Kind::MariaDb, Family::V4, true);
}

#[test]
fn dhcpv6_leases_live_in_mariadb() {
    lives(Kind::MariaDb, Family::V6, false);
}

/// Waits until the library finds nothing amiss; the other server's changes take their time.
fn wait_clean(kea: &Kea) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found = verify(kea);
        if ["missing", "different", "extra"].iter().all(|kind| found[kind] == 0) {
            return;
        }
        assert!(Instant::now() < until, "{found}");
    }
}

#[test]
fn leases_that_were_there_before_are_found_by_pages() {
    for (kind, family) in [(Kind::PostgreSql, Family::V4), (Kind::PostgreSql, Family::V6), (Kind::MariaDb, Family::V6)]
    {
        let (etcd, server) = (Etcd::start(), SqlServer::start(kind));
        let database = server.lease_database();
        let mut kea = Kea::start_without_library(&database.of(Wanted::new(family, &etcd.url())));
        for n in 0..450_u32 {
            let [.., a, b] = (256 + n).to_be_bytes();
            match family {
                Family::V4 => kea.ask(
                    "lease4-add",
                    &json!({ "ip-address": format!("10.0.{a}.{b}"), "hw-address": format!("0a:00:00:00:{a:02x}:{b:02x}"), "subnet-id": 7 }),
                ),
                // In an SQL database their order is that of their text, and types come mixed.
                Family::V6 if n % 3 == 0 => kea.ask(
                    "lease6-add",
                    &json!({ "ip-address": format!("2001:db8:8{n:03x}:5600::"), "type": "IA_PD", "prefix-len": 56, "duid": "01:02:03", "iaid": n, "subnet-id": 9 }),
                ),
                Family::V6 => kea.ask(
                    "lease6-add",
                    &json!({ "ip-address": format!("2001:db8:0:1::{n:x}"), "duid": "01:02:03", "iaid": n, "subnet-id": 9 }),
                ),
            };
        }
        kea.add_library();
        kea.wait_log("ETCD_RESYNC", 1);
        assert!(kea.log().contains("450 missing"), "{}", kea.log());
        assert_eq!(assert_mirrored(&kea, &etcd).len(), 450, "{kind:?} {family:?}");
        wait_clean(&kea);
        // And those that somebody deletes from the database are found gone.
        server.execute(&database, &format!("delete from lease{}", family.number()));
        assert_eq!(resync(&kea)["extra"], 450);
        assert!(assert_mirrored(&kea, &etcd).is_empty());
    }
}

/// What keeps etcd from holding what the database holds, whoever of its servers wrote the record.
fn difference(kea: &Kea, etcd: &Etcd) -> Option<String> {
    let records = etcd.records();
    let leases: BTreeMap<String, Value> = kea
        .leases()
        .iter()
        .map(|lease| {
            let address = lease["ip-address"].as_str().unwrap();
            expected(records.get(address).map_or(&Value::Null, |record| &record["server"]), lease)
        })
        .collect();
    records::difference(&leases, &records)
}

fn wait_same(kea: &Kea, etcd: &Etcd) {
    let until = Instant::now() + Duration::from_secs(30);
    while let Some(difference) = difference(kea, etcd) {
        assert!(Instant::now() < until, "{difference}");
        sleep(Duration::from_millis(50));
    }
}

/// Two servers that share a lease database and a prefix.
fn two_servers(kind: Kind, threads: bool) {
    let (etcd, server) = (Etcd::start(), SqlServer::start(kind));
    let database = server.lease_database();
    // The one that will end reclaims nothing: Kea closes its lease database before it unloads libraries, so what it reclaims
    // in its last turn waits for its next start.
    let start = |name: &str, reclaims: u32| {
        let more = json!({
            "decline-probation-period": 3, "valid-lifetime": 8,
            "expired-leases-processing": { "reclaim-timer-wait-time": reclaims, "max-reclaim-leases": 0, "max-reclaim-time": 0 },
        });
        let wanted = Wanted::new(Family::V4, &etcd.url()).parameter("server-name", json!(name)).threads(threads);
        Kea::start_connected(&database.of(wanted.more(more)))
    };
    let (mut a, b) = (start("a", 0), start("b", 1));

    // What one has given, the other renews and takes back.
    let mut client = Client4::new(&a, 1, 1);
    let address = client.take();
    wait_same(&a, &etcd);
    assert_eq!(etcd.records()[&address.to_string()]["server"], "a");
    sleep(Duration::from_millis(1100));
    client = Client4::new(&b, 1, 1);
    client.renew(address);
    etcd.wait("b's record", |etcd| etcd.records()[&address.to_string()]["server"] == "b");
    wait_same(&a, &etcd);
    Client4::new(&a, 1, 1).release(address);
    etcd.wait("no record", |etcd| etcd.records().is_empty());

    // Busy clients at both; then one ends, and the other goes on with all leases.
    let stop = AtomicBool::new(false);
    let journals = [Journal::default(), Journal::default()];
    std::thread::scope(|scope| {
        for (n, kea) in [&a, &b].into_iter().enumerate() {
            for relay in 0..3 {
                let (ports, journal, stop) = (kea.ports(), &journals[n], &stop);
                scope.spawn(move || {
                    keep_busy(ports, u8::try_from(1 + 3 * n).unwrap() + relay, u64::from(relay), journal, stop);
                });
            }
        }
        sleep(Duration::from_secs(4));
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} and {} ACKs", journals[0].acknowledged(), journals[1].acknowledged());
    assert!(journals.iter().all(|journal| journal.acknowledged() > 20));
    assert!(!etcd.records().is_empty());
    wait_same(&a, &etcd);
    wait_clean(&a);
    wait_clean(&b);
    // With all that it had not written: when it is killed that would wait for its next start.
    a.signal("TERM");
    a.wait_end();
    // The one that is left reclaims what either gave.
    b.wait_leases(<[_]>::is_empty);
    etcd.wait("no records", |etcd| etcd.records().is_empty());
    wait_clean(&b);
}

#[test]
fn two_servers_share_postgresql() {
    two_servers(Kind::PostgreSql, false);
}

#[test]
fn two_servers_share_postgresql_with_packet_threads() {
    two_servers(Kind::PostgreSql, true);
}

#[test]
fn two_servers_share_mariadb_with_packet_threads() {
    two_servers(Kind::MariaDb, true);
}

#[test]
fn a_lease_that_ends_through_the_other_server_before_it_is_written_leaves_no_record() {
    let (etcd, server) = (Etcd::start(), SqlServer::start(Kind::PostgreSql));
    let (database, link) = (server.lease_database(), TcpLink::to(etcd.port()));
    let start = |name: &str, url: String| {
        let wanted = Wanted::new(Family::V4, &url).parameter("server-name", json!(name));
        Kea::start_connected(&database.of(wanted.parameter("request-timeout", json!(500))))
    };
    let (mut a, mut b) = (start("a", link.url()), start("b", etcd.url()));
    for kea in [&mut a, &mut b] {
        kea.wait_log("ETCD_RESYNC", 1);
    }
    // When nothing of a's is under way the cut leaves no doubt about etcd's history, which a comparison would follow.
    etcd.wait("a synced", |etcd| etcd.range("/nnoe/dhcp/servers/a/").values().any(|text| text.contains("synced")));
    let first = Client4::new(&a, 1, 3).take();
    a.wait_statistic("etcd-writes", 1);
    link.set(Mode::Cut);
    let address = Client4::new(&a, 1, 1).take();
    Client4::new(&b, 1, 1).release(address);
    b.wait_leases(|leases| leases.len() == 1);
    link.set(Mode::Whole);
    // The late record is there before the one of another lease.
    let other = Client4::new(&a, 1, 2).take();
    let others = BTreeSet::from([first.to_string(), other.to_string()]);
    etcd.wait("the other leases alone", |etcd| etcd.records().keys().eq(&others));
    a.wait_statistic("etcd-writes", 3);
    b.wait_statistic("etcd-deletes", 1);
    for kea in [&a, &b] {
        assert_eq!(kea.statistic("etcd-resyncs"), 1, "no comparison was needed");
    }
}

#[test]
fn a_lease_database_that_goes_away_stops_neither_kea_nor_the_mirror() {
    for kind in [Kind::PostgreSql, Kind::MariaDb] {
        let (etcd, mut server) = (Etcd::start(), SqlServer::start(kind));
        let mut kea = Kea::start_connected(&server.lease_database().of(Wanted::new(Family::V4, &etcd.url())));
        let client = Client4::new(&kea, 1, 1);
        let address = client.take();
        assert_mirrored(&kea, &etcd);
        server.crash();
        // Its record is read again, which cannot be done for now.
        etcd.ctl(&["del", "--prefix", "/nnoe/dhcp/leases/"]);
        kea.wait_log("ETCD_READ_FAILED", 1);
        server.restart();
        assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
        client.renew(address);
        assert_mirrored(&kea, &etcd);
        kea.assert_alive();
        assert!(!kea.log().contains("ETCD_BUG"), "{}", kea.log());
    }
}
