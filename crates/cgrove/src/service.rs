//! systemd's side of a service: readiness, reloading, status, watchdog, passed sockets. Without systemd all of it is
//! silent; see sd_notify(3), sd_listen_fds(3).

use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use cgrove_core::text;
use sd_notify::NotifyState;
use tracing::warn;

use crate::exit::Exit;
use crate::serve::Port;
use crate::status::{Board, Status};

/// How often the status line is looked at.
const STATUS: Duration = Duration::from_secs(2);

/// Sampler and listener run; sources and stores may still be away.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A HUP is being followed; [`ready`] ends it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping; the groups stay")]);
}

fn tell(state: &[NotifyState]) {
    if let Err(e) = sd_notify::notify(state) {
        warn!("systemd cannot be told ({e}); NOTIFY_SOCKET is {:?}", std::env::var_os("NOTIFY_SOCKET"));
    }
}

/// The sockets that systemd opened for us (socket activation), in its order.
pub(crate) fn sockets() -> Result<Vec<Port>, Exit> {
    let failed = |e: std::io::Error| Exit::unavailable(format!("the sockets that systemd passed: {e}"));
    let mut out = Vec::new();
    for fd in sd_notify::listen_fds().map_err(failed)? {
        // SAFETY: systemd passes these descriptors to this process alone, and nothing else here knows them.
        #[allow(unsafe_code, reason = "a passed descriptor is only a number")]
        let listener = unsafe { TcpListener::from_raw_fd(fd) };
        listener.set_nonblocking(true).map_err(failed)?;
        let port = match socket2::SockRef::from(&listener).domain().map_err(failed)? {
            socket2::Domain::UNIX => Port::Unix(UnixListener::from(std::os::fd::OwnedFd::from(listener)), None),
            _ => Port::Tcp(listener),
        };
        port.address().map_err(|e| {
            Exit::unavailable(format!("the sockets that systemd passed: descriptor {fd} is no listener ({e}); the .socket unit has ListenStream=ADDRESS:PORT, or a path"))
        })?;
        out.push(port);
    }
    Ok(out)
}

/// Feeds the watchdog while every loop makes progress, and keeps the status line true.
pub(crate) async fn run(board: Arc<Board>) {
    let watchdog = sd_notify::watchdog_enabled();
    let pause = watchdog.map_or(STATUS, |w| (w / 4).min(STATUS));
    let mut said = String::new();
    let mut known: Vec<String> = Vec::new();
    loop {
        let stalled = board.pulses.stalled();
        if stalled.is_empty() && watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        if stalled.len() != known.len() {
            if !stalled.is_empty() {
                warn!("no progress: {}", stalled.join(", "));
            }
            known.clone_from(&stalled);
        }
        crate::log::sum_up();
        let line = if stalled.is_empty() {
            board.update(|status| status_line(status))
        } else {
            format!("no progress: {}", known.join(", "))
        };
        if line != said {
            // A line's end in it would be read as another message.
            tell(&[NotifyState::Status(&text::shown(&line))]);
            said = line;
        }
        tokio::time::sleep(pause).await;
    }
}

/// What `systemctl status` shows.
fn status_line(status: &Status) -> String {
    let mut parts = Vec::new();
    match &status.document {
        Some(d) => parts.push(format!("document version {}, {} groups", d.version, d.groups)),
        None => parts.push("no document yet".into()),
    }
    if let Some(refused) = &status.refused {
        parts.push(format!("version {} refused", refused.version));
    }
    if let Some(progress) = &status.plan.progress {
        parts.push(progress.clone());
    }
    if status.plan.failures_total > 0 {
        parts.push(format!("{} actions failed", status.plan.failures_total));
    }
    if status.state.error.is_some() {
        parts.push("state directory fails".into());
    }
    if status.plan.held_total > 0 {
        parts.push(format!("{} removals held", status.plan.held_total));
    }
    if !status.server.errors.is_empty() {
        parts.push(format!("{} addresses cannot be opened", status.server.errors.len()));
    }
    for (kind, connected) in
        [(status.source.kind, status.source.connected), (status.store.kind, status.store.connected)]
    {
        if !connected {
            parts.push(format!("{kind} away"));
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::DocumentStatus;

    #[test]
    fn the_status_line_says_what_is_wrong_first() {
        let mut status = Status::default();
        (status.source.kind, status.store.kind, status.store.connected) = ("zookeeper", "memory", true);
        assert_eq!(status_line(&status), "no document yet; zookeeper away");
        status.source.connected = true;
        status.document = Some(DocumentStatus { version: 7, groups: 3, ..DocumentStatus::default() });
        assert_eq!(status_line(&status), "document version 7, 3 groups");
        status.plan.failures_total = 30_000;
        assert_eq!(status_line(&status), "document version 7, 3 groups; 30000 actions failed");
    }
}
