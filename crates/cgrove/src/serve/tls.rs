//! TLS of the port: certificate, key and the clients' authority from files, read again when one of them changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tracing::{info, warn};

use cgrove_config::{Tls, files as bounded};

/// The files are looked at no more often than this.
const LOOK: Duration = Duration::from_secs(1);

/// What the files were when they were read: inode, length, time.
type Stamp = Vec<Option<(u64, u64, i64, i64)>>;

/// The certificates of now. Files that cannot be used leave the ones before in force.
pub(crate) struct Certificates {
    files: Tls,
    state: Mutex<State>,
}

struct State {
    stamp: Stamp,
    looked: Instant,
    looking: bool,
    config: Arc<ServerConfig>,
}

impl Certificates {
    pub(crate) fn read(files: &Tls) -> Result<Self, String> {
        let stamp = stamp(files);
        let state = State { stamp, looked: Instant::now(), looking: false, config: Arc::new(load(files)?) };
        Ok(Self { files: files.clone(), state: Mutex::new(state) })
    }

    /// For one handshake. Files that hang are not waited for.
    pub(super) async fn current(self: &Arc<Self>) -> Arc<ServerConfig> {
        if self.is_due() {
            let this = self.clone();
            let looking = tokio::task::spawn_blocking(move || this.look());
            let _ = tokio::time::timeout(LOOK, looking).await;
        }
        self.state().config.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One looks at a time, for all.
    fn is_due(&self) -> bool {
        let mut state = self.state();
        let due = !state.looking && state.looked.elapsed() >= LOOK;
        state.looking |= due;
        due
    }

    fn look(&self) {
        let stamp = stamp(&self.files);
        let changed = stamp != self.state().stamp;
        let loaded = changed.then(|| load(&self.files));
        let mut state = self.state();
        (state.looked, state.looking, state.stamp) = (Instant::now(), false, stamp);
        match loaded {
            Some(Ok(config)) => {
                state.config = Arc::new(config);
                info!("new TLS certificates are in use");
            }
            Some(Err(e)) => warn!("{e}; the certificates before stay in use"),
            None => {}
        }
    }
}

fn stamp(files: &Tls) -> Stamp {
    let of = |path: &Path| fs::metadata(path).ok().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()));
    [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|p| of(p))
        .collect()
}

fn load(files: &Tls) -> Result<ServerConfig, String> {
    let chain = certificates("server.tls_certificate", &files.certificate)?;
    let key = read("server.tls_key", &files.key).and_then(|pem| {
        PrivateKeyDer::from_pem_slice(&pem).map_err(|e| format!("server.tls_key {}: {e}", files.key.display()))
    })?;
    let builder = ServerConfig::builder();
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let bad = |e: String| format!("server.tls_client_ca {}: {e}", path.display());
            let mut roots = RootCertStore::empty();
            for certificate in certificates("server.tls_client_ca", path)? {
                roots.add(certificate).map_err(|e| bad(e.to_string()))?;
            }
            // Without a certificate a token may do.
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|e| bad(e.to_string()))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|e| format!("server.tls_certificate {}: {e}", files.certificate.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(setting, path)?).collect();
    match found {
        Ok(list) if list.is_empty() => Err(format!("{setting} {}: holds no certificate in PEM", path.display())),
        Ok(list) => Ok(list),
        Err(e) => Err(format!("{setting} {}: {e}", path.display())),
    }
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    bounded::read(path, bounded::CERTIFICATES).map_err(|e| format!("{setting} {}: {e}", path.display()))
}
