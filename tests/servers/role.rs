//! The role that docs/security.md makes: enough for all that the library does in etcd, and for nothing else.

use std::fs;
use std::process::Command;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp,
    WatchOptions,
};
use serde_json::json;
use tempfile::TempDir;

use crate::client4::Client4;
use crate::comparison::{assert_verified, resync};
use crate::etcd::{Etcd, LEASES};
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

const RECORD: &str = "/nnoe/dhcp/leases/192.0.2.1";
const INDEX: &str = "/nnoe/dhcp/index/hostname/a/192.0.2.1";
const PRESENCE: &str = "/nnoe/dhcp/servers/dhcp-a/dhcp4";
const PERMISSION_DENIED: i32 = 7;

/// Runs the commands of the document, with its two files in a directory.
fn make_role(etcd: &Etcd) -> TempDir {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).unwrap();
    let section = document.split("## The role in etcd").nth(1).unwrap();
    let commands = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = TempDir::new().unwrap();
    let mut script = commands.to_owned();
    for (file, password) in [("/etc/kea/etcd-password", "secret"), ("/root/etcd-root-password", "root's")] {
        let here = dir.path().join(password);
        fs::write(&here, format!("{password}\n")).unwrap();
        assert!(script.contains(file), "{script}");
        script = script.replace(file, &format!("\"{}\"", here.display()));
    }
    let mut shell = Command::new("sh");
    shell.args(["-exc", &script]).env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", etcd.url());
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir
}

async fn client(etcd: &Etcd, user: &str, password: &str) -> Client {
    let options = ConnectOptions::new().with_user(user, password);
    Client::connect([etcd.url()], Some(options)).await.unwrap()
}

/// What the library does, in its order: a session, a guarded transaction with an etcd lease, index keys and a read on
/// failure, pages, the watch, and the end.
async fn do_everything(client: &mut Client) -> Result<(), Error> {
    let session = client.lease_grant(15, Some(LeaseGrantOptions::new().with_id(7))).await?.id();
    let put = TxnOp::put(PRESENCE, "{}", Some(PutOptions::new().with_lease(session)));
    client.txn(Txn::new().and_then([TxnOp::get(PRESENCE, None), TxnOp::get(RECORD, None), put])).await?;
    client.lease_keep_alive(session).await?;
    let window = client.lease_grant(100, Some(LeaseGrantOptions::new().with_id(8))).await?.id();
    let on_lease = || Some(PutOptions::new().with_lease(window));
    let conditions = || [Compare::lease(PRESENCE, CompareOp::Equal, session)];
    let absent = Compare::mod_revision(RECORD, CompareOp::Equal, 0);
    let reads = || [PRESENCE, RECORD].map(|key| TxnOp::get(key, None));
    let puts = [TxnOp::put(RECORD, "{}", on_lease()), TxnOp::put(INDEX, "", on_lease())];
    let written = Txn::new().when([&conditions()[..], &[absent]].concat()).and_then(puts).or_else(reads());
    assert!(client.txn(written).await?.succeeded());
    let moved = TxnOp::put(RECORD, "", Some(PutOptions::new().with_lease(window).with_ignore_value()));
    assert!(client.txn(Txn::new().when(conditions()).and_then([moved]).or_else(reads())).await?.succeeded());
    for (base, end) in [("/nnoe/dhcp/leases/", "/nnoe/dhcp/leases0"), ("/nnoe/dhcp/index/", "/nnoe/dhcp/index0")] {
        let page = client.get(base, Some(GetOptions::new().with_range(end).with_limit(1).with_keys_only())).await?;
        assert_eq!(page.count(), 1);
    }
    let options = WatchOptions::new().with_prefix().with_fragment().with_prev_key().with_start_revision(1);
    let mut watch = client.watch("/nnoe/dhcp/leases/", Some(options)).await?;
    while watch.message().await?.expect("news").events().is_empty() {}
    let removed = [TxnOp::delete(RECORD, None), TxnOp::delete(INDEX, None)];
    assert!(client.txn(Txn::new().when(conditions()).and_then(removed).or_else(reads())).await?.succeeded());
    client.lease_revoke(session).await?;
    Ok(())
}

fn assert_denied<T: std::fmt::Debug>(what: &str, result: &Result<T, Error>) {
    let denied = matches!(result, Err(Error::GRpcStatus(status)) if status.code() as i32 == PERMISSION_DENIED);
    assert!(denied, "{what}: {result:?}");
}

#[test]
fn the_role_of_the_document_is_enough_and_no_more() {
    let etcd = Etcd::start();
    etcd.ctl(&["put", "/other", "secret"]);
    let _files = make_role(&etcd);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut ours = client(&etcd, "dhcp-a", "secret").await;
        do_everything(&mut ours).await.unwrap();
        let all = || Some(GetOptions::new().with_all_keys());
        let of_servers = || Some(GetOptions::new().with_prefix());
        assert_denied("another key", &ours.get("/other", None).await);
        assert_denied("every key", &ours.get("", all()).await);
        assert_denied("other servers", &ours.get("/nnoe/dhcp/servers/", of_servers()).await);
        for key in ["/other", "/nnoe/dhcp/servers/dhcp-b/dhcp4", "/nnoe/dhcp/leases", "/nnoe/dhcp/other"] {
            assert_denied(key, &ours.put(key, "x", None).await);
            assert_denied(key, &ours.delete(key, None).await);
            // Also where it would not come to it.
            let never = Compare::mod_revision(RECORD, CompareOp::Equal, 1);
            assert_denied(key, &ours.txn(Txn::new().when([never]).and_then([TxnOp::delete(key, None)])).await);
        }
        let mut watch = ours.watch("/", Some(WatchOptions::new().with_prefix())).await;
        if let Ok(watch) = &mut watch {
            let news = watch.message().await.unwrap().expect("an answer");
            assert!(news.canceled() && news.cancel_reason().contains("permission denied"), "{news:?}");
        }
        assert_denied("users", &ours.user_list().await);
        assert_denied("a role", &ours.role_grant_permission("dhcp-a", etcd_client::Permission::read("/other")).await);
        assert_denied("no password", &ours.auth_disable().await);
        // What the document says of etcd itself.
        ours.lease_grant(100, None).await.unwrap();
        ours.compact(2, None).await.unwrap();
    });
    let nobody = etcd.try_ctl(&["get", RECORD]);
    assert!(!nobody, "who has no password reads records");
}

#[test]
fn a_server_mirrors_and_compares_under_the_role_of_the_document() {
    let mut etcd = Etcd::start();
    let files = make_role(&etcd);
    etcd.log_in("root", "root's");
    let wanted = Wanted::new(Family::V4, &etcd.url())
        .parameter("server-name", json!("dhcp-a"))
        .parameter("user", json!("dhcp-a"))
        .parameter("password-file", json!(files.path().join("secret")))
        .parameter("index", json!(["hw-address"]));
    let mut kea = Kea::start_connected(&wanted);
    let mut client = Client4::new(&kea, 1, 1);
    let address = client.take();
    client.become_client(2);
    client.take();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
    // The watch, a comparison, index keys, and the removal of a lease.
    etcd.ctl(&["del", &format!("{LEASES}{address}")]);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
    resync(&kea);
    assert_verified(&kea);
    kea.ask("lease4-del", &json!({ "ip-address": address }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
    assert_eq!(etcd.range("/nnoe/dhcp/index/").len(), 1);
    assert_eq!(etcd.range("/nnoe/dhcp/servers/").len(), 1);
    kea.stop();
    assert!(etcd.range("/nnoe/dhcp/servers/").is_empty());
    assert!(!kea.log().contains("ETCD_DENIED"), "{}", kea.log());
}
