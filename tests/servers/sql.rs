//! A PostgreSQL or MariaDB of the test's own, for Kea's leases.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kea::{Family, Wanted};
use crate::ports;
use crate::program::{self, command};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    PostgreSql,
    /// What Debian has for MySQL.
    MariaDb,
}

impl Kind {
    /// `type` of a lease database, and the name of Kea's library for it (from 2.7 on; before that it was built in).
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::PostgreSql => ("postgresql", "libdhcp_pgsql.so"),
            Self::MariaDb => ("mysql", "libdhcp_mysql.so"),
        }
    }

    /// Who it runs as: neither runs as root.
    fn user(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgres",
            Self::MariaDb => "mysql",
        }
    }

    /// The script that makes Kea's tables (Debian: kea-admin).
    fn schema(self) -> &'static str {
        match self {
            Self::PostgreSql => "/usr/share/kea/scripts/pgsql/dhcpdb_create.pgsql",
            Self::MariaDb => "/usr/share/kea/scripts/mysql/dhcpdb_create.mysql",
        }
    }
}

pub struct SqlServer {
    kind: Kind,
    /// The network namespace that it runs in; empty for the test's own.
    host: String,
    child: Child,
    dir: TempDir,
    port: u16,
    databases: AtomicU32,
}

/// An empty lease database.
pub struct LeaseDatabase {
    kind: Kind,
    config: Value,
}

impl LeaseDatabase {
    /// Has a server keep its leases there.
    pub fn of(&self, mut wanted: Wanted) -> Wanted {
        wanted.more["lease-database"] = self.config.clone();
        wanted.library_where_needed(self.kind.name().1)
    }
}

/// PostgreSQL's own programs, which are not on the path (Debian).
fn postgres(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL (Debian: postgresql)").flatten();
    versions.map(|version| version.path().join("bin").join(name)).find(|path| path.is_file()).expect(name)
}

fn done(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl SqlServer {
    pub fn start(kind: Kind) -> Self {
        Self::start_in("", kind)
    }

    /// Starts in a network namespace.
    pub fn start_in(host: &str, kind: Kind) -> Self {
        let (dir, port) = (TempDir::new().unwrap(), ports::free());
        done(Command::new("chown").arg(kind.user()).arg(dir.path()));
        let data = dir.path().join("data");
        match kind {
            Kind::PostgreSql => {
                let mut initdb = Self::as_user(host, kind, dir.path(), &postgres("initdb"));
                done(initdb.arg("-D").arg(&data).args(["-U", "kea", "--auth=trust", "-E", "UTF8", "--no-sync"]));
            }
            Kind::MariaDb => {
                let mut install = Self::as_user(host, kind, dir.path(), Path::new("mariadb-install-db"));
                install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                done(install.arg(format!("--datadir={}", data.display())));
            }
        }
        let child = Self::run(host, kind, dir.path(), port);
        let server = Self { kind, host: host.into(), child, dir, port, databases: AtomicU32::new(0) };
        server.wait_ready();
        if kind == Kind::MariaDb {
            done(server.client(None).args(["-e", "create user kea@'127.0.0.1'; grant all on *.* to kea@'127.0.0.1'"]));
        }
        server
    }

    /// A program of the database, with temporary files of its own: a MariaDB that starts removes all `#sql*` from the
    /// directory for them, those of another that is just being installed too (`mysql_rm_tmp_tables`).
    fn as_user(host: &str, kind: Kind, dir: &Path, program: &Path) -> Command {
        let mut command = command("setpriv", host);
        command.env("TMPDIR", dir);
        command.args(["--reuid", kind.user(), "--regid", kind.user(), "--init-groups"]).arg(program);
        command
    }

    fn run(host: &str, kind: Kind, dir: &Path, port: u16) -> Child {
        let (data, port) = (dir.join("data"), port.to_string());
        let mut server = match kind {
            Kind::PostgreSql => {
                let mut postgres = Self::as_user(host, kind, dir, &postgres("postgres"));
                postgres.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port, "-k"]).arg(dir);
                postgres
            }
            Kind::MariaDb => {
                let mut mariadb = Self::as_user(host, kind, dir, Path::new("mariadbd"));
                mariadb.args(["--no-defaults", "--bind-address=127.0.0.1", "--port", &port]);
                mariadb.arg(format!("--datadir={}", data.display())).arg(format!("--socket={}/sock", dir.display()));
                mariadb
            }
        };
        program::start(&mut server, &dir.join("log"))
    }

    /// The command-line client, for a database.
    fn client(&self, database: Option<&str>) -> Command {
        match self.kind {
            Kind::PostgreSql => {
                let mut psql = command("psql", &self.host);
                let port = self.port.to_string();
                psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &port, "-U", "kea"]);
                psql.arg(database.unwrap_or("postgres"));
                psql
            }
            Kind::MariaDb => {
                let mut mariadb = command("mariadb", &self.host);
                mariadb.arg("--no-defaults").arg(format!("--socket={}/sock", self.dir.path().display()));
                mariadb.args(["-u", "root"]).args(database);
                mariadb
            }
        }
    }

    fn wait_ready(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let asked = self.client(None).args([self.query(), "select 1"]).output().expect("the database's client");
            if asked.status.success() {
                return;
            }
            assert!(Instant::now() < until, "no database: {}", String::from_utf8_lossy(&asked.stderr));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The client's option for a statement.
    fn query(&self) -> &'static str {
        if self.kind == Kind::PostgreSql { "-c" } else { "-e" }
    }

    /// An empty lease database, whose loss Kea bears.
    pub fn lease_database(&self) -> LeaseDatabase {
        let name = format!("kea{}", self.databases.fetch_add(1, Ordering::Relaxed));
        done(self.client(None).args([self.query(), &format!("create database {name}")]));
        done(self.client(Some(&name)).stdin(fs::File::open(self.kind.schema()).expect("kea-admin")));
        let config = json!({
            "type": self.kind.name().0, "host": "127.0.0.1", "port": self.port, "name": name, "user": "kea",
            "max-reconnect-tries": 1000, "reconnect-wait-time": 100, "on-fail": "serve-retry-continue",
        });
        LeaseDatabase { kind: self.kind, config }
    }

    /// Carries out a statement in a lease database.
    pub fn execute(&self, database: &LeaseDatabase, statement: &str) {
        let name = database.config["name"].as_str().unwrap();
        done(self.client(Some(name)).args([self.query(), statement]));
    }

    /// Whether leases ever were in a lease database: Kea's tables count them, and keep the count (`lease4_stat`).
    pub fn has_counted(&self, database: &LeaseDatabase, family: Family) -> bool {
        let name = database.config["name"].as_str().unwrap();
        let bare: &[&str] = if self.kind == Kind::PostgreSql { &["-t", "-A"] } else { &["-N", "-B"] };
        let count = format!("select count(*) from lease{}_stat", family.number());
        let answer = self.client(Some(name)).args(bare).args([self.query(), &count]).output().unwrap();
        String::from_utf8_lossy(&answer.stdout).trim().parse::<u32>().unwrap() > 0
    }

    /// Ends it at once, as a crash does.
    pub fn crash(&mut self) {
        // PostgreSQL's processes end together on SIGQUIT, and would not on SIGKILL.
        program::signal(&self.child, if self.kind == Kind::PostgreSql { "QUIT" } else { "KILL" });
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = Self::run(&self.host, self.kind, self.dir.path(), self.port);
        self.wait_ready();
    }
}

impl Drop for SqlServer {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.crash();
        }
        if std::thread::panicking() {
            eprintln!(
                "--- the lease database's log\n{}",
                fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
        }
    }
}
