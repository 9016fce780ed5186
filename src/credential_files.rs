//! The files that the parameters of TLS and authentication name: read and checked, at load and for each connection.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys, RootCertStore};
use zeroize::Zeroizing;

use crate::config::credentials::{Credentials, Password, Secret, TlsFiles};
use crate::config::{ConfigError, fault};

/// Bytes that a file may have: the authorities of the whole web take 0.2 MiB.
const LARGEST: u64 = 4 * 1024 * 1024;

const TRUST_ANCHOR: &str = "trust-anchor";
const CERT_FILE: &str = "cert-file";
const KEY_FILE: &str = "key-file";
const PASSWORD_FILE: &str = "password-file";

/// What each of the files is to hold.
fn accepted(parameter: &str) -> &'static str {
    match parameter {
        KEY_FILE => "a PEM file with one unencrypted private key, the one of the certificate in 'cert-file'",
        PASSWORD_FILE => "a file with the password in its only line",
        _ => "a PEM file with at least one certificate that is valid now",
    }
}

fn bad(parameter: &str, file: &Path, reason: impl std::fmt::Display) -> ConfigError {
    fault(parameter, format!("{} ({reason})", file.display()), accepted(parameter))
}

/// What a TLS connection needs.
pub struct Tls {
    /// The authorities that are trusted.
    pub trust_anchors: Vec<TrustAnchor<'static>>,
    /// Our certificates, the own one first, and the key, each as PEM.
    pub client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

/// Whether the validity of certificates counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    Now,
    /// One that is mended later must not keep Kea from starting.
    Any,
}

/// Whether every file can be used, the times of certificates apart: a server must start with a certificate that expired.
///
/// # Errors
/// The first file that cannot be read or is malformed, or a key that does not belong to its certificate.
pub fn check(credentials: &Credentials) -> Result<(), ConfigError> {
    check_at(credentials, Time::Any)
}

/// Whether a connection could be made with the files now.
///
/// # Errors
/// As [`check`], and a certificate that is out of its time.
pub fn usable(credentials: &Credentials) -> Result<(), ConfigError> {
    check_at(credentials, Time::Now)
}

fn check_at(credentials: &Credentials, time: Time) -> Result<(), ConfigError> {
    if let Some(files) = &credentials.tls {
        read_tls_at(files, time)?;
    }
    match &credentials.user {
        Some(user) => read_password(&user.password).map(drop),
        None => Ok(()),
    }
}

/// Reads the files of TLS. Authorities whose certificate expired are left out, as OpenSSL and Go do.
///
/// # Errors
/// The first file that cannot be used, and why.
pub fn read_tls(files: &TlsFiles) -> Result<Tls, ConfigError> {
    read_tls_at(files, Time::Now)
}

fn read_tls_at(files: &TlsFiles, time: Time) -> Result<Tls, ConfigError> {
    let TlsFiles { trust_anchor, client } = files;
    let bytes = read(TRUST_ANCHOR, trust_anchor)?;
    let (mut trusted, mut out_of_date) = (RootCertStore::empty(), None);
    for certificate in certificates(TRUST_ANCHOR, trust_anchor, &bytes)? {
        out_of_date = out_of_its_time(&certificate).filter(|_| time == Time::Now);
        if out_of_date.is_none() {
            trusted.add(certificate).map_err(|error| bad(TRUST_ANCHOR, trust_anchor, error))?;
        }
    }
    if let (true, Some(error)) = (trusted.is_empty(), out_of_date) {
        return Err(bad(TRUST_ANCHOR, trust_anchor, error));
    }
    let client = client.as_ref().map(|(cert_file, key_file)| read_client(cert_file, key_file, time)).transpose()?;
    Ok(Tls { trust_anchors: trusted.roots, client })
}

fn read_client(cert_file: &Path, key_file: &Path, time: Time) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), ConfigError> {
    let (pem, key_pem) = (read(CERT_FILE, cert_file)?, read(KEY_FILE, key_file)?);
    let chain = certificates(CERT_FILE, cert_file, &pem)?;
    for certificate in &chain {
        ParsedCertificate::try_from(certificate).map_err(|error| bad(CERT_FILE, cert_file, error))?;
        if let Some(error) = out_of_its_time(certificate).filter(|_| time == Time::Now) {
            return Err(bad(CERT_FILE, cert_file, error));
        }
    }
    // The parser's own text would show a line of the file.
    let key = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|_| bad(KEY_FILE, key_file, "no PEM section of a private key, or a broken one"))?;
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok((pem.to_vec(), key_pem)),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let reason = format!("a key that does not belong to the certificate in {}", cert_file.display());
            Err(bad(KEY_FILE, key_file, reason))
        }
        Err(error) => Err(bad(KEY_FILE, key_file, error)),
    }
}

/// Reads the password: all of the file but a newline at its end.
///
/// # Errors
/// A file that cannot be read, is empty, has more than one line, or is not UTF-8, as etcd's protocol demands.
pub fn read_password(password: &Password) -> Result<Secret, ConfigError> {
    let file = match password {
        Password::Given(secret) => return Ok(secret.clone()),
        Password::File(file) => file,
    };
    let bytes = read(PASSWORD_FILE, file)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| bad(PASSWORD_FILE, file, "no UTF-8 text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => Err(bad(PASSWORD_FILE, file, "empty")),
        text if text.contains(['\n', '\r', '\0']) => Err(bad(PASSWORD_FILE, file, "more than one line")),
        text => Ok(Secret::new(text)),
    }
}

/// Which files with a secret others than their owner and its group may read: the parameter and the file of each.
#[must_use]
pub fn open_to_others(credentials: &Credentials) -> Vec<(&'static str, PathBuf)> {
    let key = credentials.tls.as_ref().and_then(|tls| tls.client.as_ref()).map(|(_, key)| (KEY_FILE, key.clone()));
    let password = credentials.user.as_ref().and_then(|user| match &user.password {
        Password::File(file) => Some((PASSWORD_FILE, file.clone())),
        Password::Given(_) => None,
    });
    let others_may_read = |file: &Path| fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o004 != 0);
    key.into_iter().chain(password).filter(|(_, file)| others_may_read(file)).collect()
}

/// What changes when a file is written or replaced: device, inode, size, time of the change. `None` for one that is gone.
pub type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The stamps of the files of TLS, and that of the password.
#[must_use]
pub fn stamps(credentials: &Credentials) -> (Vec<Stamp>, Stamp) {
    let stamp = |file: &Path| {
        let found = fs::metadata(file).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    let tls = credentials.tls.iter().flat_map(|tls| {
        let client = tls.client.iter().flat_map(|(cert_file, key_file)| [cert_file, key_file]);
        std::iter::once(&tls.trust_anchor).chain(client)
    });
    let password = credentials.user.as_ref().and_then(|user| match &user.password {
        Password::File(file) => stamp(file),
        Password::Given(_) => None,
    });
    (tls.map(|file| stamp(file)).collect(), password)
}

/// Only a regular file: reading anything else may wait for ever.
fn read(parameter: &str, file: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let bad = |reason: &dyn std::fmt::Display| bad(parameter, file, reason);
    let found = fs::metadata(file).map_err(|error| bad(&error))?;
    if !found.is_file() {
        return Err(bad(&"no regular file"));
    }
    if found.len() > LARGEST {
        return Err(bad(&format!("larger than {LARGEST} bytes")));
    }
    // Room for all of it: growing would leave copies behind.
    let room = usize::try_from(found.len()).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let opened = File::open(file).map_err(|error| bad(&error))?;
    opened.take(LARGEST).read_to_end(&mut bytes).map_err(|error| bad(&error))?;
    Ok(bytes)
}

fn certificates(parameter: &str, file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    // The parser's own text would show a line of the file, which may have a key in it as well.
    let found = found.map_err(|_| bad(parameter, file, "a broken PEM section"))?;
    if found.is_empty() { Err(bad(parameter, file, "no PEM section of a certificate")) } else { Ok(found) }
}

/// Why a certificate is not valid now, if it is its time. That is looked at before anything else (webpki
/// `verify_cert.rs`, `check_issuer_independent_properties`), whoever signed it.
fn out_of_its_time(certificate: &CertificateDer<'_>) -> Option<CertificateError> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (nobody, now) = (RootCertStore::empty(), UnixTime::since_unix_epoch(now));
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], now, algorithms) {
        Err(Error::InvalidCertificate(
            error @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => Some(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
