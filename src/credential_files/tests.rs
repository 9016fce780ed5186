use std::fs::{self, Permissions};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::*;

const WORD: &str = "pass-phrase-7";

/// A directory with files to be named.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.0.path().join(name);
        fs::write(&file, content).unwrap();
        file
    }
}

/// So many days from now, or ago.
fn day(days: i64) -> SystemTime {
    let apart = Duration::from_secs(days.unsigned_abs() * 86_400);
    if days < 0 { SystemTime::now() - apart } else { SystemTime::now() + apart }
}

/// An authority whose certificate is valid until so many days from now.
fn authority(days: i64) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = day(days).into();
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate that is valid until so many days from now, and its key.
fn certificate(days: i64) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.not_after = day(days).into();
    (params.signed_by(&key, &authority(9)).unwrap().pem(), key.serialize_pem())
}

fn tls(trust_anchor: PathBuf, client: Option<(PathBuf, PathBuf)>) -> Credentials {
    Credentials { tls: Some(TlsFiles { trust_anchor, client }), user: None }
}

fn refused(credentials: &Credentials) -> String {
    check(credentials).unwrap_err().to_string()
}

#[test]
fn a_trust_anchor_may_be_a_bundle_and_must_be_one_certificate_at_least() {
    let files = Files::new();
    let bundle = files.put("ca.pem", [authority(9).pem(), authority(9).pem()].concat());
    assert_eq!(read_tls(&TlsFiles { trust_anchor: bundle, client: None }).unwrap().trust_anchors.len(), 2);
    let key = KeyPair::generate().unwrap().serialize_pem();
    for (content, reason) in [
        (String::new(), "no PEM section of a certificate"),
        ("nonsense".into(), "no PEM section of a certificate"),
        (key, "no PEM section of a certificate"),
        (authority(9).pem().replace("-----END", "--"), "a broken PEM section"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), "invalid peer certificate"),
    ] {
        let file = files.put("bad.pem", &content);
        let message = refused(&tls(file.clone(), None));
        let line = format!("parameter 'trust-anchor': found {} ({reason}", file.display());
        assert!(message.starts_with(&line), "{content}: {message}");
    }
}

#[test]
fn what_is_no_readable_file_is_named() {
    let files = Files::new();
    let missing = files.0.path().join("missing");
    assert!(refused(&tls(missing.clone(), None)).contains("missing (No such file"));
    assert!(refused(&tls(files.0.path().into(), None)).contains("(no regular file)"));
    // Opening it would wait for a writer.
    let pipe = files.0.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(refused(&tls(pipe, None)).contains("pipe (no regular file)"));
    let large = files.put("large", "");
    File::options().write(true).open(&large).unwrap().set_len(LARGEST + 1).unwrap();
    assert!(refused(&tls(large, None)).contains("large (larger than"));
}

#[test]
fn a_key_must_belong_to_its_certificate() {
    let files = Files::new();
    let anchor = files.put("ca.pem", authority(9).pem());
    let ((one, one_key), (_, other_key)) = (certificate(9), certificate(9));
    let with = |certificate: &str, key: &str| {
        tls(anchor.clone(), Some((files.put("c.pem", certificate), files.put("k.pem", key))))
    };
    check(&with(&one, &one_key)).unwrap();
    // Both in one file.
    let both = one.clone() + &one_key;
    check(&with(&both, &both)).unwrap();
    let directory = files.0.path().display();
    for (certificate, key, line) in [
        (
            &*one,
            &*other_key,
            format!(
                "'key-file': found {directory}/k.pem (a key that does not belong to the certificate in {directory}/c.pem)"
            ),
        ),
        (&one, &one, format!("'key-file': found {directory}/k.pem (no PEM section of a private key, or a broken one)")),
        (
            &one,
            &one_key.replace("-----BEGIN", "-----BEGIN ENCRYPTED"),
            format!("'key-file': found {directory}/k.pem (no PEM"),
        ),
        (&one, &one_key.replace("\nMI", "\nMJ"), format!("'key-file': found {directory}/k.pem (")),
        (&one_key, &one_key, format!("'cert-file': found {directory}/c.pem (no PEM section of a certificate)")),
    ] {
        let message = refused(&with(certificate, key));
        assert!(message.starts_with(&format!("parameter {line}")), "{message}");
        // No line of the key.
        let secret = one_key.lines().nth(1).unwrap();
        assert!(!message.contains(&secret[8..]) && !message.contains("-----"), "{message}");
    }
}

#[test]
fn what_expired_is_no_reason_not_to_start_and_is_not_used() {
    let files = Files::new();
    let (good, old) = (authority(9), authority(-1));
    let (certificate, key) = certificate(-1);
    let client = (files.put("c.pem", certificate), files.put("k.pem", key));
    let expired = |credentials: &Credentials, line: &str| {
        check(credentials).unwrap();
        let message = usable(credentials).unwrap_err().to_string();
        assert!(message.starts_with(&format!("parameter {line}")), "{message}");
        assert!(message.contains("certificate expired"), "{message}");
    };
    expired(&tls(files.put("old.pem", old.pem()), None), "'trust-anchor': found ");
    expired(&tls(files.put("good.pem", good.pem()), Some(client)), "'cert-file': found ");
    // Whatever the order.
    for bundle in [[good.pem(), old.pem()].concat(), [old.pem(), good.pem()].concat()] {
        let trust_anchor = files.put("both.pem", bundle);
        assert_eq!(read_tls(&TlsFiles { trust_anchor, client: None }).unwrap().trust_anchors.len(), 1);
    }
}

#[test]
fn a_password_is_the_only_line_of_its_file() {
    let files = Files::new();
    let read = |content: &[u8]| {
        let secret = read_password(&Password::File(files.put("password", content)));
        secret.map(|secret| secret.reveal().to_owned()).map_err(|error| error.to_string())
    };
    for (content, password) in [
        (&b"pass-phrase-7"[..], "pass-phrase-7"),
        (b"pass-phrase-7\n", "pass-phrase-7"),
        (b"pass-phrase-7\r\n", "pass-phrase-7"),
        (b" with spaces \n", " with spaces "),
        ("\u{e4}\n".as_bytes(), "\u{e4}"),
    ] {
        assert_eq!(read(content), Ok(password.into()));
    }
    for (content, reason) in [
        (&b""[..], "(empty)"),
        (b"\n", "(empty)"),
        (b"pass-phrase-7\n\n", "(more than one line)"),
        (b"pass-phrase-7\nx", "(more than one line)"),
        (b"pass-phrase-7\xff", "(no UTF-8 text)"),
    ] {
        let message = read(content).unwrap_err();
        assert!(message.starts_with("parameter 'password-file': found /") && message.contains(reason), "{message}");
        assert!(!message.contains(WORD), "{message}");
    }
}

#[test]
fn files_that_others_may_read_are_told_and_changes_are_seen() {
    let files = Files::new();
    let (certificate, key) = certificate(9);
    let key = files.put("k.pem", key);
    let mut credentials =
        tls(files.put("ca.pem", authority(9).pem()), Some((files.put("c.pem", certificate), key.clone())));
    let password = files.put("password", WORD);
    let user = crate::config::credentials::User { name: "dhcp".into(), password: Password::File(password.clone()) };
    credentials.user = Some(user);
    for (mode, told) in [(0o600, 0), (0o640, 0), (0o644, 2), (0o604, 2)] {
        for file in [&key, &password] {
            fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(open_to_others(&credentials).len(), told, "{mode:o}");
    }
    let before = stamps(&credentials);
    assert_eq!(stamps(&credentials), before);
    fs::rename(files.put("new", WORD), &password).unwrap();
    let after = stamps(&credentials);
    assert_eq!((&after.0, after.1 == before.1), (&before.0, false));
    fs::remove_file(&key).unwrap();
    assert_eq!(stamps(&credentials).0[2], None);
}
