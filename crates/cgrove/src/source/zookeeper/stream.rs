//! The connection below a session: TCP, or TLS over it.

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::hosts::Host;
use crate::client_tls::Stream;

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
