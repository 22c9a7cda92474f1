//! Between two connections: whole frames pass both ways, as far as [`Guard`] lets them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::guard::{Guard, MAX_FRAME};

/// A frame that has begun comes to its end, or what was written is taken.
const FRAME: Duration = Duration::from_secs(4);
const CHUNK: usize = 16 << 10;

/// How a connection ended; the reasons stand behind the server's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The library closed its end.
    Left,
    Away(String),
    Hostile(String),
}

/// Passes frames both ways until one side ends, or breaks the protocol.
pub(super) async fn pass(
    client: impl AsyncRead + AsyncWrite,
    server: impl AsyncRead + AsyncWrite,
    guard: &mut Guard,
) -> End {
    let ((from_client, mut to_client), (from_server, mut to_server)) =
        (tokio::io::split(client), tokio::io::split(server));
    let guard = Mutex::new(guard);
    let guard = || guard.lock().unwrap_or_else(PoisonError::into_inner);
    let up = async {
        let mut frames = Frames::new(from_client);
        loop {
            let Ok(frame) = frames.next().await else { return End::Left };
            guard().request(frame.get(4..).unwrap_or_default());
            if let Err(why) = written(&mut to_server, &frame).await {
                return End::Away(why);
            }
        }
    };
    let down = async {
        let mut frames = Frames::new(from_server);
        loop {
            let frame = match frames.next().await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            let passes = guard().reply(frame.get(4..).unwrap_or_default());
            if let Err(why) = passes {
                return End::Hostile(why);
            }
            if written(&mut to_client, &frame).await.is_err() {
                return End::Left;
            }
        }
    };
    // Who asks too much is heard before who has left because of it.
    tokio::select! {
        biased;
        end = down => end,
        end = up => end,
    }
}

async fn written(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<(), String> {
    let writing = async {
        to.write_all(frame).await?;
        to.flush().await
    };
    match timeout(FRAME, writing).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_) => Err("it takes nothing".into()),
    }
}

/// Reads frames, each with its length. Memory is taken as bytes come, not as they are announced.
struct Frames<R> {
    from: R,
    input: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    fn new(from: R) -> Self {
        Self { from, input: BytesMut::new() }
    }

    async fn next(&mut self) -> Result<Bytes, End> {
        let mut until = Instant::now() + FRAME;
        loop {
            if let Some(head) = self.input.first_chunk::<4>() {
                let length = i32::from_be_bytes(*head);
                let length = usize::try_from(length).ok().filter(|n| *n <= MAX_FRAME).ok_or_else(|| {
                    End::Hostile(format!("announces an answer of {length} bytes; at most {MAX_FRAME} are read, and a document has at most 1 MiB"))
                })?;
                if self.input.len() >= length + 4 {
                    return Ok(self.input.split_to(length + 4).freeze());
                }
            }
            self.input.reserve(CHUNK);
            let half = !self.input.is_empty();
            let reading = self.from.read_buf(&mut self.input);
            let read = match half {
                true => timeout_at(until, reading).await.map_err(|_| End::Away("sends half an answer".into()))?,
                false => {
                    let read = reading.await;
                    until = Instant::now() + FRAME;
                    read
                }
            };
            match read {
                Ok(0) => return Err(End::Away("it closed the connection".into())),
                Ok(_) => {}
                Err(e) => return Err(End::Away(e.to_string())),
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    pub(in super::super) fn frame(body: &[u8]) -> Vec<u8> {
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
    }

    pub(in super::super) fn ints(numbers: &[i32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    pub(in super::super) fn greeting() -> Vec<u8> {
        frame(&[ints(&[0, 6000, 0, 7, 16]), vec![0; 17]].concat())
    }

    /// A library's end and a server's, with a relay in between that ends with its guard's opinion.
    fn between() -> (DuplexStream, DuplexStream, impl Future<Output = (End, bool)>) {
        let ((library, client), (server, far)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
        let passing = async move {
            let mut guard = Guard::new("/a");
            (pass(client, server, &mut guard).await, guard.answered)
        };
        (library, far, passing)
    }

    #[tokio::test(start_paused = true)]
    async fn frames_pass_whole_or_not_at_all() {
        let (mut library, mut server, passing) = between();
        let talk = async move {
            let asked = frame(&ints(&[1, 9, 0]));
            let connect = frame(&[0; 45]);
            library.write_all(&[connect.clone(), asked.clone()].concat()).await.unwrap();
            let mut heard = vec![0; connect.len() + asked.len()];
            server.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, [connect, asked].concat());
            let answer = frame(&ints(&[1, 0, 9, 0, 0]));
            for part in [greeting(), answer.clone()].concat().chunks(7) {
                server.write_all(part).await.unwrap();
            }
            let mut heard = vec![0; greeting().len() + answer.len()];
            library.read_exact(&mut heard).await.unwrap();
            // Half a frame.
            server.write_all(&answer[..9]).await.unwrap();
            let mut rest = Vec::new();
            library.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty());
            drop(server);
        };
        let began = Instant::now();
        let ((end, answered), ()) = tokio::join!(passing, talk);
        assert_eq!((end, answered), (End::Away("sends half an answer".into()), true));
        assert_eq!(began.elapsed().as_secs(), FRAME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn what_breaks_the_protocol_ends_the_connection() {
        for bad in [
            i32::MAX.to_be_bytes().to_vec(),
            ints(&[-1]),
            ints(&[0]),
            frame(&[0; 36]),
            [greeting(), frame(&ints(&[5, 0, 9, 0]))].concat(),
            [greeting(), vec![0; 1 << 20]].concat(),
        ] {
            let (mut library, mut server, passing) = between();
            let talk = async {
                library.write_all(&frame(&[0; 44])).await.unwrap();
                let _ = server.write_all(&bad).await;
                let mut rest = Vec::new();
                library.read_to_end(&mut rest).await.unwrap();
                assert!(rest.len() <= greeting().len());
            };
            let ((end, answered), ()) = tokio::join!(passing, talk);
            assert!(matches!(end, End::Hostile(_)) && !answered, "{end:?}");
        }
    }
}
