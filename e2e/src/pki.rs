//! The cluster's certificates and keys, as files. A CA for all clients and servers, a second one for the API server's own
//! front proxy (aggregated APIs), and the key that signs service account tokens.
//!
//! Invariant: what exists is kept, so a cluster on a kept data directory trusts what it trusted before. Keys are
//! readable by their owner only.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// Subject of a certificate.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Common name: the user, for a client.
    pub name: &'a str,
    /// Organization: the group, for a client.
    pub group: Option<&'a str>,
    /// Names and addresses a server is reached by. Empty: a client only.
    pub hosts: Vec<String>,
}

/// A certificate and its key, in files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate (PEM).
    pub cert: PathBuf,
    /// Its key (PEM, PKCS #8).
    pub key: PathBuf,
}

/// A certificate authority whose files lie in one folder.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// The authority's own certificate (PEM).
    pub cert: PathBuf,
    /// The authority's key (PEM).
    pub key: PathBuf,
}

impl Authority {
    /// The authority `name` in `dir`: the one that is there, or a new one.
    pub fn open(dir: &Path, name: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let (cert, key) = paths(dir, name);
        let pair = load_or_make_key(&key)?;
        let params = authority_params(name);
        if !cert.is_file() {
            write(&cert, &params.self_signed(&pair)?.pem(), 0o644)?;
        }
        Ok(Self { dir: dir.to_path_buf(), issuer: Issuer::new(params, pair), cert, key })
    }

    /// The certificate `file` for `subject`: the one that is there, or a new one.
    pub fn issue(&self, file: &str, subject: &Subject<'_>) -> anyhow::Result<Pair> {
        let (cert, key) = paths(&self.dir, file);
        if !cert.is_file() || !key.is_file() {
            let pair = load_or_make_key(&key)?;
            let issued = leaf_params(subject)?.signed_by(&pair, &self.issuer)?;
            write(&cert, &issued.pem(), 0o644)?;
        }
        Ok(Pair { cert, key })
    }
}

/// The key pair that signs and checks service account tokens: the one in `dir`, or a new one. `cert` is the public key.
pub fn service_account_key(dir: &Path) -> anyhow::Result<Pair> {
    let key = dir.join("service-account.key");
    let public = dir.join("service-account.pub");
    let pair = load_or_make_key(&key)?;
    write(&public, &pair.public_key_pem(), 0o644)?;
    Ok(Pair { cert: public, key })
}

fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
}

fn load_or_make_key(path: &Path) -> anyhow::Result<KeyPair> {
    if path.is_file() {
        let pem = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        return KeyPair::from_pem(&pem).with_context(|| format!("reading the key {}", path.display()));
    }
    let pair = KeyPair::generate().context("making a key")?;
    write(path, &pair.serialize_pem(), 0o600)?;
    Ok(pair)
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("portico-e2e {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn leaf_params(subject: &Subject<'_>) -> anyhow::Result<CertificateParams> {
    let Subject { name, group, hosts } = subject;
    let mut params = CertificateParams::new(hosts.clone()).context("a host name of a certificate")?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, *name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !hosts.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    Ok(params)
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_exists_is_kept_and_keys_are_private() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let subject =
            Subject { name: "admin", group: Some("system:masters"), hosts: vec!["127.0.0.1".into()] };
        let first = Authority::open(dir.path(), "ca")?.issue("admin", &subject)?;
        let before = (fs::read(&first.cert)?, fs::read(&first.key)?);
        let authority = Authority::open(dir.path(), "ca")?;
        let second = authority.issue("admin", &subject)?;
        assert_eq!(before, (fs::read(&second.cert)?, fs::read(&second.key)?));
        for key in [&authority.key, &second.key] {
            assert_eq!(fs::metadata(key)?.permissions().mode() & 0o777, 0o600);
        }
        Ok(())
    }
}
