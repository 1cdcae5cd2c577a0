//! The certificate that the webhook shows, as whoever renews it replaces the files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Context;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::warn;

/// A directory with `tls.crt` and `tls.key`, as a secret of that type has them.
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
    loaded: Mutex<(Option<SystemTime>, Arc<ServerConfig>)>,
}

impl Certificates {
    /// Reads them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn open(directory: &Path) -> anyhow::Result<Certificates> {
        let loaded = (changed(directory), load(directory)?);
        Ok(Certificates { directory: directory.to_owned(), loaded: Mutex::new(loaded) })
    }

    /// As they are now; as they were, if they can't be read.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = changed(&self.directory);
        if now != loaded.0 {
            match load(&self.directory) {
                Ok(config) => *loaded = (now, config),
                Err(error) => warn!("the certificate was changed and can't be used: {error:#}"),
            }
        }
        Arc::clone(&loaded.1)
    }
}

fn changed(directory: &Path) -> Option<SystemTime> {
    std::fs::metadata(directory.join("tls.crt")).and_then(|file| file.modified()).ok()
}

fn load(directory: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    let chain = CertificateDer::pem_file_iter(&certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("{}", certificate.display()))?;
    let secret = PrivateKeyDer::from_pem_file(&key).with_context(|| format!("{}", key.display()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| format!("{} and {}", certificate.display(), key.display()))?;
    Ok(Arc::new(config))
}
