//! A connection that takes no more from its server than was asked for. The client library reads an answer whole, however
//! large it is announced to be; so whoever asks says how much may come, and what comes beyond that ends the connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A larger value is none of ours: a slot of 50,000 groups has less.
pub(super) const LARGEST: usize = 32 << 20;
/// An answer to a question that is not for a value.
pub(super) const SMALL: usize = 64 << 10;
/// May always come: greetings, errors, and what answers hold beside values.
const SLACK: usize = 256 << 10;

/// How much may still come.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<Left>);

#[derive(Debug, Default)]
struct Left {
    /// By questions that are not answered yet.
    asked: usize,
    taken: usize,
}

/// A question is answered, or given up, when this is dropped.
pub(super) struct Asked {
    meter: Arc<Meter>,
    most: usize,
}

impl Meter {
    fn with<T>(&self, work: impl FnOnce(&mut Left) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answer may have `most` bytes.
    pub(super) fn ask(self: &Arc<Self>, most: usize) -> Asked {
        self.with(|left| left.asked += most);
        Asked { meter: self.clone(), most }
    }

    fn take(&self, bytes: usize) -> bool {
        self.with(|left| {
            left.taken += bytes;
            left.taken <= left.asked + SLACK
        })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.meter.with(|left| {
            left.asked -= self.most;
            // What came was the answer to this one, as far as it may have been.
            left.taken = if left.asked == 0 { 0 } else { left.taken.saturating_sub(self.most) };
        });
    }
}

pub(super) struct Limited<S> {
    pub(super) stream: S,
    pub(super) meter: Arc<Meter>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let came = buf.filled().len().saturating_sub(before);
        let within = self.meter.take(came);
        let why = "its answer is larger than anything that was asked for";
        Poll::Ready(if within { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, why)) })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_was_asked_for_comes_and_nothing_beyond() {
        let (mut server, client) = tokio::io::duplex(8 << 20);
        let mut client = Limited { stream: client, meter: Arc::default() };
        let meter = client.meter.clone();
        let mut buffer = vec![0; 3 << 20];
        for _ in 0..50 {
            // Two at a time: each may have its part, whichever comes first.
            let (small, large) = (meter.ask(1 << 10), meter.ask(3 << 20));
            server.write_all(&buffer).await.unwrap();
            client.read_exact(&mut buffer).await.unwrap();
            drop(large);
            server.write_all(&[0; 1 << 10]).await.unwrap();
            client.read_exact(&mut [0; 1 << 10]).await.unwrap();
            drop(small);
        }
        server.write_all(&buffer).await.unwrap();
        let error = client.read_exact(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
