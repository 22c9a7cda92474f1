//! Listening sockets and their connections: TCP, plain or TLS on one port, and unix.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
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

use super::crowd::Door;
use super::peer::{Peer, network};
use super::tls::Certificates;
use crate::owner::Owners;
use cgrove_config::Address;

/// What a client that does not read costs in the kernel. With more, the kernel would also tell of room so seldom that a
/// slow but steady reader looked like one that takes nothing.
const SEND_BUFFER: usize = 256 << 10;

/// Connections that the kernel holds until they are let in (net.core.somaxconn bounds it): a crowd that comes at once
/// makes nobody wait for the kernel's next attempt.
const BACKLOG: i32 = 4096;

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

/// Who may use a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// And the members of the group cgrove.
    Group,
    Root,
}

impl Port {
    /// Opens it; done before any source or store is reached.
    pub(crate) fn open(address: &Address, whom: For) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                rustix::net::listen(&listener, BACKLOG)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            Address::Unix(path) => open_unix(path, whom).map(|(listener, made)| Self::Unix(listener, Some(made))),
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
            Self::Tcp(listener) => {
                TcpListener::from_std(listener.try_clone()?).map(|listener| Listener::Tcp(listener, Owners::default()))
            }
            Self::Unix(listener, _) => UnixListener::from_std(listener.try_clone()?).map(Listener::Unix),
        }
    }
}

/// A socket that a daemon left behind is taken over, one that answers is not.
fn open_unix(path: &Path, whom: For) -> io::Result<(std::os::unix::net::UnixListener, Made)> {
    if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        if is_answered(path)? {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    // Nobody else may connect between the socket's birth and its mode: made under another name, then renamed.
    let mut newborn = path.as_os_str().to_owned();
    newborn.push(".new");
    let newborn = Path::new(&newborn);
    let _ = fs::remove_file(newborn);
    let listener = std::os::unix::net::UnixListener::bind(Short::of(newborn)?.path())?;
    let finish = || {
        fs::set_permissions(newborn, fs::Permissions::from_mode(0o600))?;
        if let (For::Group, Ok(Some(group))) = (whom, Group::from_name(GROUP)) {
            let born_so = fs::metadata(newborn).is_ok_and(|m| m.gid() == group.gid.as_raw());
            match if born_so { Ok(()) } else { chown(newborn, None, Some(group.gid.as_raw())) } {
                Ok(()) => fs::set_permissions(newborn, fs::Permissions::from_mode(0o660))?,
                Err(e) => warn!("{}: its group cannot become {GROUP}: {e}; only root may use it", path.display()),
            }
        }
        rustix::net::listen(&listener, BACKLOG)?;
        fs::rename(newborn, path)?;
        listener.set_nonblocking(true)
    };
    finish().inspect_err(|_| drop(fs::remove_file(newborn)))?;
    let inode = fs::symlink_metadata(path)?.ino();
    Ok((listener, Made(path.to_owned(), inode)))
}

/// Does somebody listen? One that is too busy to answer does.
fn is_answered(path: &Path) -> io::Result<bool> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let connected = socket.connect(&socket2::SockAddr::unix(Short::of(path)?.path())?);
    Ok(match connected {
        Ok(()) => true,
        Err(e) => e.kind() == io::ErrorKind::WouldBlock,
    })
}

/// A socket's address has at most 107 bytes: a longer path goes by way of its directory's descriptor.
pub(crate) struct Short {
    path: PathBuf,
    _directory: Option<fs::File>,
}

impl Short {
    const LONGEST: usize = 107;

    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let (true, Some(parent), Some(name)) =
            (path.as_os_str().len() > Self::LONGEST, path.parent(), path.file_name())
        else {
            return Ok(Self { path: path.to_owned(), _directory: None });
        };
        let directory = fs::File::open(parent)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

pub(crate) enum Listener {
    Tcp(TcpListener, Owners),
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
    /// Whom it is counted for.
    pub(super) whose: Peer,
}

impl Ends {
    /// The peer's address; the unix socket's clients are this node's.
    pub(super) fn ip(&self) -> IpAddr {
        self.peer.map_or(IpAddr::from([127, 0, 0, 1]), |p| p.ip().to_canonical())
    }

    pub(super) fn door(&self) -> Door {
        if self.peer.is_some() { Door::Port } else { Door::UnixSocket }
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
            Self::Tcp(listener, owners) => {
                let (stream, peer) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                // A peer that lost power says nothing; the kernel finds out.
                let alive =
                    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
                let socket = SockRef::from(&stream);
                let _ = socket.set_tcp_keepalive(&alive);
                let _ = socket.set_send_buffer_size(SEND_BUFFER);
                let local = stream.local_addr().ok();
                let mut ends = Ends { peer: Some(peer), local, tls: false, certified: false, whose: Peer::Node };
                let user = |local| owners.of(local, peer).map_or(Peer::Node, Peer::User);
                ends.whose =
                    if ends.is_local() { local.map_or(Peer::Node, user) } else { Peer::Host(network(ends.ip())) };
                Ok((Raw::Tcp(stream), ends))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let whose = stream.peer_cred().map_or(Peer::Node, |peer| Peer::User(peer.uid()));
                Ok((Raw::Unix(stream), Ends { peer: None, local: None, tls: false, certified: false, whose }))
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
    let stream = TlsAcceptor::from(certificates.current().await).accept(stream).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_over_only_from_the_dead_however_long_its_path_is() {
        let dir = std::env::temp_dir().join(format!("cgrove-port-{}-{}", std::process::id(), "x".repeat(120)));
        fs::create_dir_all(&dir).unwrap();
        let address = Address::Unix(dir.join("cgrove.sock"));
        let first = Port::open(&address, For::Root).unwrap();
        let Address::Unix(path) = &address else { return };
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
        assert!(Port::open(&address, For::Root).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse));
        assert!(is_answered(path).unwrap());
        drop(first);
        assert!(!path.exists());
        // One that was left behind, as after a kill.
        drop(std::os::unix::net::UnixListener::bind(Short::of(path).unwrap().path()).unwrap());
        assert!(path.exists() && !is_answered(path).unwrap());
        drop(Port::open(&address, For::Root).unwrap());
        assert!(!path.exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
