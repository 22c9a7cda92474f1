//! The command line as a client of a daemon: this node's own, or any other by its address.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cgrove_config::{Address, Config, files};
use futures_util::{SinkExt, StreamExt};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{StatusCode, Uri};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::args::{Args, Whom};
use super::document;
use super::reply::{silent, stranger, understood};
use crate::exit::Exit;
use crate::owner;
use crate::ports;
use crate::serve::Short;

/// A connection is made, and an answer is there, within this; pings and parts of messages do not prolong it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// A long range of a large tree takes its time.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes of a message: the status, a slot or a list of all the 50,000 groups that a document may have, at 1 KiB each,
/// and some more.
pub(super) const MOST: usize = 64 << 20;
/// Bytes of a reply with many slots: minutes of a large tree are one message.
const MOST_SLOTS: usize = 1 << 30;

fn bounded(most: usize) -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most))
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

/// An open connection.
pub(super) struct Client {
    socket: WebSocketStream<Box<dyn Both>>,
    /// For messages.
    place: String,
}

impl Client {
    pub(super) async fn connect(args: &Args, whom: &Whom) -> Result<Self, Exit> {
        Self::connected(args, whom, MOST).await
    }

    /// For replies with many slots. Those may take long and be large, so that a daemon first answers what it can at once,
    /// whatever the client may ask for.
    pub(super) async fn connect_for_slots(args: &Args, whom: &Whom) -> Result<Self, Exit> {
        let mut client = Self::connected(args, whom, MOST_SLOTS).await?;
        client.ask(&json!({ "cmd": "unsubscribe", "args": { "to": "slots" } })).await?;
        Ok(client)
    }

    async fn connected(args: &Args, whom: &Whom, most: usize) -> Result<Self, Exit> {
        match &whom.url {
            Some(url) => Self::remote(url, whom, most).await,
            None => Self::nearby(&*document::load(args)?, most).await,
        }
    }

    /// This node's daemon: by root's own socket, by another unix socket, by a port, whichever is there first.
    pub(super) async fn local(config: &Config) -> Result<Self, Exit> {
        Self::nearby(config, MOST).await
    }

    async fn nearby(config: &Config, most: usize) -> Result<Self, Exit> {
        let own = Address::Unix(ports::roots_own(config));
        let (unix, tcp): (Vec<_>, Vec<_>) = config.server.listen.iter().partition(|a| matches!(a, Address::Unix(_)));
        let mut why = Vec::new();
        for address in std::iter::once(&own).chain(unix).chain(tcp) {
            match Self::at(address, most).await {
                Ok(client) => return Ok(client),
                // Only root gets there, and only while a daemon runs.
                Err(Unreached::Away(_)) if *address == own && !config.server.listen.is_empty() => {}
                Err(e) => why.push(format!("{address}: {e}")),
            }
        }
        Err(Exit::unavailable(format!("no daemon answers on {}; is `cgrove run` running?", why.join("; "))))
    }

    async fn at(address: &Address, most: usize) -> Result<Self, Unreached> {
        let attempt = async {
            let (stream, trusted) = reach(address).await?;
            let greeted =
                tokio_tungstenite::client_async_with_config("ws://localhost/", stream, Some(bounded(most))).await;
            // Whoever answered has accepted the connection by now.
            match trusted.check() {
                Err(Unreached::Untold) if greeted.is_err() => {}
                other => other?,
            }
            let (socket, _) = greeted.map_err(|e| Unreached::Refused(match e {
                    Error::Http(reply)
                        if matches!(reply.status(), StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS) =>
                    {
                        "server.trust_loopback is false: add \"/run/cgrove/cgrove.sock\" to server.listen, for this command, or be root"
                            .to_owned()
                    }
                    e => e.to_string(),
                }))?;
            Ok(socket)
        };
        let late = Unreached::Away("no answer".into());
        let socket = tokio::time::timeout(PATIENCE, attempt).await.unwrap_or(Err(late))?;
        Ok(Self { socket, place: address.to_string() })
    }

    async fn remote(url: &str, whom: &Whom, most: usize) -> Result<Self, Exit> {
        let wrong =
            |why: &str| Exit::usage(format!("--url {url}: {why}; it has the form ws://HOST:PORT or wss://HOST:PORT"));
        let uri: Uri = url.parse().map_err(|_| wrong("not an address"))?;
        let (Some(scheme @ ("ws" | "wss")), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(wrong("not an address"));
        };
        let mut request = url.into_client_request().map_err(|e| wrong(&e.to_string()))?;
        if let Some(file) = &whom.token_file {
            let token = files::named_text(file, files::SECRET)
                .map_err(|e| Exit::no_input(format!("{}: {e}", file.display())))?;
            let token = token.lines().next().unwrap_or_default().trim();
            let value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Exit::usage("the token is no text".into()))?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        if scheme == "ws" && whom.ca.is_some() {
            return Err(wrong("--ca is for wss://, and this would be sent in the clear"));
        }
        let tls = if scheme == "wss" { Some(authority(whom)?) } else { None };
        let port = match uri.port_u16() {
            None if uri.authority().is_some_and(|a| !a.as_str().ends_with(host)) => {
                return Err(wrong("the port is not between 1 and 65535"));
            }
            port => port.unwrap_or(43409),
        };
        let attempt = async {
            let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(|e| e.to_string())?;
            let stream: Box<dyn Both> = match tls {
                None => Box::new(tcp),
                Some(connector) => {
                    let name =
                        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|e| e.to_string())?;
                    Box::new(connector.connect(name, tcp).await.map_err(|e| e.to_string())?)
                }
            };
            let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(bounded(most)))
                .await
                .map_err(|e| match e {
                Error::Http(reply) if reply.status() == StatusCode::UNAUTHORIZED => {
                    "it wants a token: --token-file FILE".to_owned()
                }
                e => e.to_string(),
            })?;
            Ok(socket)
        };
        let socket =
            in_time(attempt).await.map_err(|e| Exit::unavailable(format!("no daemon answers at {url}: {e}")))?;
        Ok(Self { socket, place: url.to_owned() })
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) async fn send(&mut self, request: &Value) -> Result<(), Exit> {
        let sent = self.socket.send(Message::text(request.to_string())).await;
        sent.map_err(|e| Exit::unavailable(format!("{}: {e}", self.place)))
    }

    /// What a daemon said before it closed a connection to which nothing can be written any more.
    async fn last_words(&mut self) -> Option<Exit> {
        let said = async {
            loop {
                if let Err(e) = self.next().await {
                    break e;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(1), said).await.ok()
    }

    /// The next message as text; waits for as long as it takes. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<String, Exit> {
        let mut why = String::new();
        while let Some(message) = self.socket.next().await {
            let message = match message {
                // It has said why, and no longer hears our answer to that.
                Err(_) if !why.is_empty() => break,
                result => result.map_err(|e| Exit::unavailable(format!("{}: {e}", self.place)))?,
            };
            match message {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Binary(_) => return Err(stranger(&self.place, "it sent a binary message")),
                Message::Close(Some(close)) => why = format!(": {}", close.reason),
                _ => {}
            }
        }
        Err(Exit::unavailable(format!("{}: it closed the connection{why}", self.place)))
    }

    /// One request and its reply, as text.
    pub(super) async fn ask_text(&mut self, request: &Value) -> Result<String, Exit> {
        let patience = if request["cmd"] == "show_account" { LONGEST } else { PATIENCE };
        let place = self.place.clone();
        let exchange = async {
            if let Err(e) = self.send(request).await {
                return Err(self.last_words().await.unwrap_or(e));
            }
            self.next().await
        };
        tokio::time::timeout(patience, exchange).await.unwrap_or_else(|_| Err(silent(&place, patience)))
    }

    pub(super) async fn ask(&mut self, request: &Value) -> Result<Value, Exit> {
        let text = self.ask_text(request).await?;
        understood(&self.place, request["cmd"].as_str().unwrap_or_default(), &text)
    }
}

async fn in_time<T>(attempt: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err("no answer".into()))
}

/// Why an address did not do.
#[derive(Debug, thiserror::Error)]
enum Unreached {
    /// Nobody is there for this user.
    #[error("{0}")]
    Away(String),
    #[error("{0}")]
    Refused(String),
    #[error(
        "it cannot be told which user listens there, so that what it says is not shown; --url ws://ADDRESS:PORT asks it all the same"
    )]
    Untold,
}

impl From<std::io::Error> for Unreached {
    fn from(e: std::io::Error) -> Self {
        Self::Away(e.to_string())
    }
}

/// Whose word is shown: a daemon of root or of the caller. While none runs, any user may listen where it would.
enum Listens {
    Here(SocketAddr, SocketAddr),
    Known(u32),
}

impl Listens {
    fn check(&self) -> Result<(), Unreached> {
        let user = match self {
            Self::Known(uid) => *uid,
            Self::Here(here, there) => owner::of(*here, *there).ok_or(Unreached::Untold)?,
        };
        if user == 0 || user == nix::unistd::geteuid().as_raw() {
            return Ok(());
        }
        Err(Unreached::Refused(format!(
            "uid {user} listens there, neither root nor the user who asks: it is no daemon of this node, and what it says is not shown"
        )))
    }
}

async fn reach(address: &Address) -> Result<(Box<dyn Both>, Listens), Unreached> {
    let mut address = match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(Short::of(path)?.path()).await?;
            // Who began to listen, whoever owns the file.
            let listens = Listens::Known(stream.peer_cred()?.uid());
            listens.check()?;
            return Ok((Box::new(stream), listens));
        }
        Address::Tcp(address) => *address,
    };
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let stream = TcpStream::connect(address).await?;
    let listens = Listens::Here(stream.local_addr()?, stream.peer_addr()?);
    Ok((Box::new(stream), listens))
}

/// Nobody but the authority that is named is believed.
fn authority(whom: &Whom) -> Result<TlsConnector, Exit> {
    let file =
        whom.ca.as_ref().ok_or_else(|| Exit::usage("wss:// needs --ca FILE: who signed its certificate".into()))?;
    let bad = |why: String| Exit::no_input(format!("{}: {why}", file.display()));
    let mut roots = RootCertStore::empty();
    let pem = files::named(file, files::CERTIFICATES).map_err(|e| bad(e.to_string()))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("holds no certificate in PEM".into()));
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
