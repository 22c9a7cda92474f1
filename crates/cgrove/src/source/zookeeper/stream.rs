//! The connection below a session: TCP, or TLS over it.

use std::sync::Arc;

use cgrove_config::{ClientTls, files};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::hosts::Host;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The error is for people, and does not name the server.
pub(super) async fn open(host: &Host, tls: Option<&TlsConnector>) -> Result<Box<dyn Stream>, String> {
    let tcp = TcpStream::connect((host.name.as_str(), host.port)).await.map_err(|e| e.to_string())?;
    let _ = tcp.set_nodelay(true);
    if !host.tls {
        return Ok(Box::new(tcp));
    }
    let tls = tls.ok_or("tcp+tls:// needs zookeeper.tls_ca")?;
    let name = ServerName::try_from(host.name.clone()).map_err(|e| format!("TLS: {e}"))?;
    Ok(Box::new(tls.connect(name, tcp).await.map_err(|e| format!("TLS: {e}"))?))
}

/// Nobody but the authority that is named is believed; revocation lists in its file count.
pub(super) fn connector(tls: &ClientTls) -> Result<TlsConnector, String> {
    let read = |setting: &str, path: &std::path::Path| {
        files::read(path, files::CERTIFICATES).map_err(|e| format!("zookeeper.{setting} {}: {e}", path.display()))
    };
    let bad = |setting: &str, why: &dyn std::fmt::Display| format!("zookeeper.{setting}: {why}");
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
