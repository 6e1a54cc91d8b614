//! The certificate authority of one cluster and the certificates it signs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate and its key, PEM, in memory and on disk.
#[derive(Debug, Clone)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Signs for one cluster; its files lie in one folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca: Identity,
}

impl Authority {
    /// A new authority with its files (`ca.crt`, `ca.key`) in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "persona testbed");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        let ca = store(folder, "ca", &cert, &key)?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer: Issuer::new(params, key),
            ca,
        })
    }

    pub fn ca(&self) -> &Identity {
        &self.ca
    }

    /// A serving certificate for DNS names and IP addresses.
    pub fn server(&self, file: &str, common_name: &str, names: &[String]) -> Result<Identity> {
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, params)
    }

    /// A client certificate; to Kubernetes the common name is the user, the organization the group.
    pub fn client(&self, file: &str, user: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, params)
    }

    /// The key pair that signs service account tokens (`sa.pub`, `sa.key`).
    pub fn service_account_keys(&self) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        let public = write(&self.folder.join("sa.pub"), &key.public_key_pem())?;
        let private = write(&self.folder.join("sa.key"), &key.serialize_pem())?;
        Ok((public, private))
    }

    fn sign(&self, file: &str, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        store(&self.folder, file, &cert, &key)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

fn store(folder: &Path, file: &str, cert: &Certificate, key: &KeyPair) -> Result<Identity> {
    let (cert_pem, key_pem) = (cert.pem(), key.serialize_pem());
    Ok(Identity {
        cert: write(&folder.join(format!("{file}.crt")), &cert_pem)?,
        key: write(&folder.join(format!("{file}.key")), &key_pem)?,
        cert_pem,
        key_pem,
    })
}

/// Writes a file only its owner can read.
pub(crate) fn write(path: &Path, content: &str) -> Result<PathBuf> {
    fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}
