//! TLS towards ZooKeeper and Redis, as `tls_ca`, `tls_certificate` and `tls_key` of their sections say; the files are read at
//! each connection.

use std::path::Path;
use std::sync::Arc;

use cgrove_config::{ClientTls, files};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A connection, with or without TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Nobody but the authority that is named is believed; revocation lists in its file count.
pub(crate) fn connector(section: &str, tls: &ClientTls) -> Result<TlsConnector, String> {
    let read = |setting: &str, path: &Path| {
        files::read(path, files::CERTIFICATES).map_err(|e| format!("{section}.{setting} {}: {e}", path.display()))
    };
    let bad = |setting: &str, why: &dyn std::fmt::Display| format!("{section}.{setting}: {why}");
    let pem = read("tls_ca", &tls.ca)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        // A bundle may hold some that are too old to be read; they are not believed.
        let _ = roots.add(certificate.map_err(|e| bad("tls_ca", &e))?);
    }
    if roots.is_empty() {
        return Err(bad("tls_ca", &format!("{} holds no certificate in PEM", tls.ca.display())));
    }
    let revoked = CertificateRevocationListDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let revoked = revoked.map_err(|e| bad("tls_ca", &e))?;
    let verifier = WebPkiServerVerifier::builder(Arc::new(roots)).with_crls(revoked).build();
    let builder = ClientConfig::builder().with_webpki_verifier(verifier.map_err(|e| bad("tls_ca", &e))?);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(&read("tls_certificate", certificate)?)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| bad("tls_certificate", &e))?;
            let key = PrivateKeyDer::from_pem_slice(&read("tls_key", key)?).map_err(|e| bad("tls_key", &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| bad("tls_certificate", &e))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
