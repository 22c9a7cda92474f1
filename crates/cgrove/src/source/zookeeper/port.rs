//! Where the library connects to: a port of loopback, for this process only.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::own;

/// For the library's first request, once it is connected.
const SPEAKS: Duration = Duration::from_secs(1);
/// Between looks at who connects, while strangers do.
const STRANGERS: Duration = Duration::from_millis(50);

/// The newest connection counts, and none of strangers.
pub(super) struct Port {
    listener: TcpListener,
    pub(super) here: SocketAddrV4,
    /// Not looked at yet.
    came: Vec<(TcpStream, SocketAddr)>,
    waiting: Option<TcpStream>,
}

impl Port {
    pub(super) async fn open() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match listener.local_addr()? {
            SocketAddr::V4(here) => Ok(Self { listener, here, came: Vec::new(), waiting: None }),
            SocketAddr::V6(_) => Err(std::io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Takes who comes while something else goes on.
    pub(super) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                () = self.take() => {}
            }
        }
    }

    /// The library's connection, one that it has not given up.
    pub(super) async fn client(&mut self) -> TcpStream {
        loop {
            if let Some(client) = self.waiting.take() {
                // It speaks first.
                if timeout(SPEAKS, client.peek(&mut [0])).await.is_ok_and(|peeked| peeked.is_ok_and(|n| n > 0)) {
                    return client;
                }
            }
            self.take().await;
        }
    }

    /// Waits for connections, and keeps the newest of our own. Cancel-safe: who came is looked at the next time.
    async fn take(&mut self) {
        if self.came.is_empty() {
            match self.listener.accept().await {
                Ok(one) => self.came.push(one),
                Err(_) => return sleep(STRANGERS).await,
            }
        }
        while self.came.len() < 128
            && let Ok(Ok(one)) = timeout(Duration::ZERO, self.listener.accept()).await
        {
            self.came.push(one);
        }
        let peers: Vec<SocketAddr> = self.came.iter().map(|(_, peer)| *peer).collect();
        let here = self.here;
        let ours = match tokio::task::spawn_blocking(move || own::ours(here, &peers)).await {
            Ok(Ok(ours)) => ours,
            Ok(Err(e)) => {
                tracing::warn!("who connects to the relay to ZooKeeper cannot be told from /proc/self: {e}");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        let strangers = ours.len() < self.came.len() || ours.contains(&false);
        let mine = self.came.drain(..).zip(ours).filter(|(_, ours)| *ours).map(|((client, _), _)| client);
        if let Some(client) = mine.last() {
            let _ = client.set_nodelay(true);
            self.waiting = Some(client);
        }
        if strangers {
            sleep(STRANGERS).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn the_port_is_for_this_process() {
        let mut port = Port::open().await.unwrap();
        let at =
            format!("exec 3<>/dev/tcp/127.0.0.1/{}; echo x >&3; read -t 9 -u 3 word; echo $?$word", port.here.port());
        let stranger =
            tokio::task::spawn_blocking(move || std::process::Command::new("bash").args(["-c", &at]).output());
        let stranger = timeout(Duration::from_secs(20), port.beside(stranger)).await.unwrap().unwrap().unwrap();
        // The end of the connection, and not a word; or it was reset.
        assert_eq!(stranger.stdout, b"1\n");
        assert!(port.waiting.is_none());
        let mut mine = TcpStream::connect(port.here).await.unwrap();
        mine.write_all(b"x").await.unwrap();
        let client = timeout(Duration::from_secs(20), port.client()).await.unwrap();
        assert_eq!(client.peer_addr().unwrap(), mine.local_addr().unwrap());
    }
}
