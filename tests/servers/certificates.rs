//! An authority of the test's own, and the certificates that it signs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;

use crate::etcd::Flags;

/// The names of an etcd on this host.
pub const THIS_HOST: &[&str] = &["127.0.0.1", "::1", "localhost"];

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub struct Signed {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each has a name of its own, as in life: an unknown one is told from one whose key changed.
        params
            .distinguished_name
            .push(DnType::CommonName, format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// The certificate of a server with these names.
    pub fn server(&self, names: &[&str]) -> Signed {
        self.sign(names, "etcd", false)
    }

    /// The same, since an hour out of its time.
    pub fn expired_server(&self, names: &[&str]) -> Signed {
        self.sign(names, "etcd", true)
    }

    /// The certificate of a client, which etcd may take for the user of this name.
    pub fn client(&self, name: &str) -> Signed {
        self.sign(&[], name, false)
    }

    /// The same, since an hour out of its time.
    pub fn expired_client(&self, name: &str) -> Signed {
        self.sign(&[], name, true)
    }

    fn sign(&self, names: &[&str], common_name: &str, expired: bool) -> Signed {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if expired {
            params.not_after = (SystemTime::now() - Duration::from_secs(3600)).into();
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}

/// Files of one test: those of its etcd and those that Kea is told.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// Where a file is, or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, as text for a flag or a parameter.
    pub fn put(&self, name: &str, content: &str) -> String {
        let file = self.path(name);
        fs::write(&file, content).unwrap();
        text(&file)
    }

    /// Writes `<name>.pem` and `<name>.key`.
    pub fn put_signed(&self, name: &str, signed: &Signed) -> (String, String) {
        (self.put(&format!("{name}.pem"), &signed.certificate), self.put(&format!("{name}.key"), &signed.key))
    }

    /// The flags of an etcd that shows such a certificate. It reads it anew for each connection.
    pub fn etcd(&self, server: &Signed) -> Flags {
        let (certificate, key) = self.put_signed("etcd", server);
        let server = vec![format!("--cert-file={certificate}"), format!("--key-file={key}")];
        Flags { tls: true, server, ..Flags::default() }
    }

    /// The same, of one that wants clients to show a certificate of this authority; its own client does.
    pub fn etcd_for_clients(&self, server: &Signed, authority: &Authority) -> Flags {
        let mut flags = self.etcd(server);
        let trusted = self.put("trusted.pem", &authority.certificate());
        flags.server.extend(["--client-cert-auth".into(), format!("--trusted-ca-file={trusted}")]);
        let (certificate, key) = self.put_signed("root", &authority.client("root"));
        flags.client.extend([format!("--cert={certificate}"), format!("--key={key}")]);
        flags
    }
}

fn text(file: &Path) -> String {
    file.to_str().unwrap().to_owned()
}
