//! Listening sockets and their connections: TCP, plain or TLS on one port, and unix.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::unistd::Group;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::warn;

use super::tls::Certificates;
use cgrove_config::Address;

/// What a client that does not read costs in the kernel. With more, the kernel would also tell of room so seldom that a
/// slow but steady reader looked like one that takes nothing.
const SEND_BUFFER: usize = 256 << 10;

/// Who may use the unix socket beside root.
pub(crate) const GROUP: &str = "cgrove";
/// A TLS connection begins with a record of this type: handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// An open listening socket, kept across reloads.
pub(crate) enum Port {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, #[allow(dead_code, reason = "held for its drop")] Option<Made>),
}

/// The file of a socket that we made: removed with it, if it is still that one.
pub(crate) struct Made(PathBuf, u64);

impl Drop for Made {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.0).is_ok_and(|m| m.ino() == self.1) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl Port {
    /// Opens it; done before any source or store is reached.
    pub(crate) fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            Address::Unix(path) => open_unix(path).map(|(listener, made)| Self::Unix(listener, Some(made))),
        }
    }

    /// Where a passed socket listens.
    pub(crate) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(listener, _) => match listener.local_addr()?.as_pathname() {
                Some(path) => Ok(Address::Unix(path.to_owned())),
                None => Err(io::Error::other("a unix socket without a path")),
            },
        }
    }

    /// For one run of the server.
    pub(crate) fn listener(&self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => TcpListener::from_std(listener.try_clone()?).map(Listener::Tcp),
            Self::Unix(listener, _) => UnixListener::from_std(listener.try_clone()?).map(Listener::Unix),
        }
    }
}

/// A socket that a daemon left behind is taken over, one that answers is not.
fn open_unix(path: &Path) -> io::Result<(std::os::unix::net::UnixListener, Made)> {
    if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    // Nobody else may connect between the socket's birth and its mode: made under another name, then renamed.
    let mut newborn = path.as_os_str().to_owned();
    newborn.push(".new");
    let newborn = Path::new(&newborn);
    let _ = fs::remove_file(newborn);
    let listener = std::os::unix::net::UnixListener::bind(newborn)?;
    let finish = || {
        fs::set_permissions(newborn, fs::Permissions::from_mode(0o600))?;
        if let Ok(Some(group)) = Group::from_name(GROUP) {
            let born_so = fs::metadata(newborn).is_ok_and(|m| m.gid() == group.gid.as_raw());
            match if born_so { Ok(()) } else { chown(newborn, None, Some(group.gid.as_raw())) } {
                Ok(()) => fs::set_permissions(newborn, fs::Permissions::from_mode(0o660))?,
                Err(e) => warn!("{}: its group cannot become {GROUP}: {e}; only root may use it", path.display()),
            }
        }
        fs::rename(newborn, path)?;
        listener.set_nonblocking(true)
    };
    finish().inspect_err(|_| drop(fs::remove_file(newborn)))?;
    let inode = fs::symlink_metadata(path)?.ino();
    Ok((listener, Made(path.to_owned(), inode)))
}

pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// How a client came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// `None` came through the unix socket.
    pub(super) peer: Option<SocketAddr>,
    pub(super) local: Option<SocketAddr>,
    pub(super) tls: bool,
    /// Its certificate is signed by `server.tls_client_ca`.
    pub(super) certified: bool,
}

impl Ends {
    /// The peer's address; the unix socket's clients are this node's.
    pub(super) fn ip(&self) -> IpAddr {
        self.peer.map_or(IpAddr::from([127, 0, 0, 1]), |p| p.ip().to_canonical())
    }

    /// On this node: loopback, or through an address of its own.
    pub(super) fn is_local(&self) -> bool {
        self.ip().is_loopback() || self.local.is_some_and(|l| l.ip().to_canonical() == self.ip())
    }
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.peer {
            Some(peer) => peer.fmt(f),
            None => f.write_str("unix socket"),
        }
    }
}

pub(super) enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<(Raw, Ends)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                // A peer that lost power says nothing; the kernel finds out.
                let alive =
                    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
                let socket = SockRef::from(&stream);
                let _ = socket.set_tcp_keepalive(&alive);
                let _ = socket.set_send_buffer_size(SEND_BUFFER);
                let local = stream.local_addr().ok();
                Ok((Raw::Tcp(stream), Ends { peer: Some(peer), local, tls: false, certified: false }))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Raw::Unix(stream), Ends { peer: None, local: None, tls: false, certified: false }))
            }
        }
    }
}

/// A connection to be served.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Shakes hands where the client speaks TLS.
pub(super) async fn greet(raw: Raw, ends: &mut Ends, certificates: Option<&Arc<Certificates>>) -> io::Result<Stream> {
    let stream = match raw {
        Raw::Unix(stream) => return Ok(Stream::Unix(stream)),
        Raw::Tcp(stream) => stream,
    };
    let Some(certificates) = certificates else { return Ok(Stream::Tcp(stream)) };
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 || first[0] != HANDSHAKE {
        return Ok(Stream::Tcp(stream));
    }
    let stream = TlsAcceptor::from(certificates.current()).accept(stream).await?;
    ends.tls = true;
    ends.certified = stream.get_ref().1.peer_certificates().is_some();
    Ok(Stream::Tls(Box::new(stream)))
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
