//! What may pass from a ZooKeeper server to the client library: whole frames of a bounded size, one greeting, answers to what
//! was asked, and as many notifications as watches were set. The library (0.11.2) believes what it reads:
//! - a frame's announced length, and the number of an ACL's entries, are memory that it takes (record.rs);
//! - an answer to a read that is shorter than a znode's `Stat` is a panic (client/mod.rs, `get_data_internally`);
//! - a notification for a path that nobody watches makes a request, kept until the server reads it (session/watch.rs);
//! - a greeting says how long it waits for a session that is lost, up to 24 days (session/mod.rs).

use std::time::Duration;

use bytes::Buf;

/// The largest answer that is read: a document has at most 1 MiB, and one that is a little larger is refused by its size.
pub(super) const MAX_FRAME: usize = 2 << 20;
/// A greeting is 37 bytes, its password 16 of them.
const GREETING: std::ops::RangeInclusive<usize> = 21..=100;
/// What a server may make of the time that a session is asked to last: the library pings many times in it.
const SHORTEST: Duration = Duration::from_millis(200);
/// Likewise, unless it was asked for more: the library tries for so long to take it up again.
pub(super) const LONGEST: Duration = Duration::from_secs(600);
/// A znode's `Stat`.
const STAT: usize = 68;
/// Watches that are not answered yet; we set one at a time, and again with each read.
const WATCHES: usize = 16;
/// Requests that are not answered yet.
const ASKED: usize = 1000;

/// Operations, by the numbers that `ZooDefs.OpCode` gives them.
mod op {
    pub(super) const EXISTS: i32 = 3;
    pub(super) const GET_DATA: i32 = 4;
    pub(super) const SET_DATA: i32 = 5;
    pub(super) const GET_ACL: i32 = 6;
    pub(super) const PING: i32 = 11;
    pub(super) const AUTH: i32 = 100;
    pub(super) const SET_WATCHES: i32 = 101;
    pub(super) const SASL: i32 = 102;
}

/// Requests beside which the library asks nothing of ours.
const SETUP: [i32; 4] = [op::PING, op::AUTH, op::SET_WATCHES, op::SASL];
/// The number that a notification has instead of a request's.
const NOTIFICATION: i32 = -1;
const EXPIRED: i32 = -112;
const AUTH_FAILED: i32 = -115;
const SASL_NEEDED: i32 = -124;

/// One connection of the library with one server.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// The path whose watch may fire, chroot included.
    watched: String,
    /// The session that is asked for, 0 for a new one; then the request was seen.
    session: Option<i64>,
    wanted: Duration,
    pub(super) greeted: bool,
    /// Number and operation of what is not answered yet.
    asked: Vec<(i32, i32)>,
    watches: usize,
    /// A request of ours was answered.
    pub(super) answered: bool,
    /// The server does not believe who we say that we are.
    pub(super) refused: bool,
    /// We said so by SASL.
    pub(super) sasl: bool,
}

impl Guard {
    pub(super) fn new(watched: &str) -> Self {
        Self { watched: watched.to_owned(), ..Self::default() }
    }

    /// A frame of the library's, without its length.
    pub(super) fn request(&mut self, frame: &[u8]) {
        let mut body = frame;
        if self.session.is_none() {
            // Version, last transaction seen, time, session.
            body.advance(12.min(body.len()));
            self.wanted = Duration::from_millis(body.try_get_i32().ok().and_then(|n| n.try_into().ok()).unwrap_or(0));
            self.session = Some(body.try_get_i64().unwrap_or(0));
            return;
        }
        let (Ok(number), Ok(kind)) = (body.try_get_i32(), body.try_get_i32()) else { return };
        self.sasl |= kind == op::SASL;
        if self.asked.len() < ASKED {
            self.asked.push((number, kind));
        }
        let watches = matches!(kind, op::GET_DATA | op::EXISTS) && frame.last() == Some(&1);
        if watches || kind == op::SET_WATCHES {
            self.watches = (self.watches + 1).min(WATCHES);
        }
    }

    /// A frame of the server's, without its length. The error is for people, behind the server's name.
    pub(super) fn reply(&mut self, frame: &[u8]) -> Result<(), String> {
        let odd = || "its answer is not the one to our question".to_owned();
        if !self.greeted {
            let session = self.greeting(frame).ok_or("its greeting is not ZooKeeper's")?;
            return match (self.session, session) {
                (None | Some(0), 0) => Err("gives a session that has ended already".into()),
                _ => Ok(()),
            };
        }
        let mut body = frame;
        let (Ok(number), Ok(_zxid), Ok(error)) = (body.try_get_i32(), body.try_get_i64(), body.try_get_i32()) else {
            return Err(odd());
        };
        if number == NOTIFICATION {
            return self.notification(body);
        }
        let at = self.asked.iter().position(|(n, _)| *n == number).ok_or("answers what was not asked")?;
        let (_, kind) = self.asked.remove(at);
        self.refused |= matches!(error, AUTH_FAILED | SASL_NEEDED);
        self.answered |= !SETUP.contains(&kind) && !matches!(error, EXPIRED | AUTH_FAILED | SASL_NEEDED);
        if error == 0 && !fits(kind, body) { Err(odd()) } else { Ok(()) }
    }

    /// The session that it gives.
    fn greeting(&mut self, mut body: &[u8]) -> Option<i64> {
        GREETING.contains(&body.len()).then_some(())?;
        let (version, millis) = (body.try_get_i32().ok()?, body.try_get_i32().ok()?);
        let (session, password) = (body.try_get_i64().ok()?, body.try_get_i32().ok()?);
        let whole = usize::try_from(password).is_ok_and(|n| n > 0 && n <= body.len());
        let lasts = Duration::from_millis(u64::try_from(millis).ok()?);
        // One that was asked for a session which has ended says 0, and no time. What follows the password is the library's.
        let lasts = session == 0 || (SHORTEST..=LONGEST.max(self.wanted)).contains(&lasts);
        (version == 0 && whole && lasts).then_some(())?;
        self.greeted = true;
        Some(session)
    }

    fn notification(&mut self, mut body: &[u8]) -> Result<(), String> {
        let (kind, state) = (body.try_get_i32(), body.try_get_i32());
        let length = body.try_get_i32().ok().and_then(|n| usize::try_from(n).ok());
        let known = matches!((kind, state), (Ok(1..=3), Ok(3))) && length == Some(body.len());
        if !known || body != self.watched.as_bytes() {
            return Err("notifies of what was not asked".into());
        }
        self.watches = self.watches.checked_sub(1).ok_or("sends notifications without end")?;
        Ok(())
    }
}

/// Has the answer the shape that its request asks for, as far as the library does not look itself?
fn fits(kind: i32, mut body: &[u8]) -> bool {
    match kind {
        op::GET_DATA => {
            let length = body.try_get_i32().map(|n| n.max(0)).ok().and_then(|n| usize::try_from(n).ok());
            length.and_then(|n| n.checked_add(STAT)) == Some(body.len())
        }
        op::EXISTS | op::SET_DATA => body.len() == STAT,
        // An entry has at least three numbers.
        op::GET_ACL => body.try_get_i32().is_ok_and(|n| usize::try_from(n.max(0)).is_ok_and(|n| n <= body.len() / 12)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(numbers: &[i32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    fn connect(session: i64) -> Vec<u8> {
        [ints(&[0, 0, 0, 10_000]), session.to_be_bytes().to_vec(), ints(&[16]), vec![0; 17]].concat()
    }

    fn greeting(version: i32, millis: i32, session: i32, password: i32, rest: usize) -> Vec<u8> {
        [ints(&[version, millis, 0, session, password]), vec![0; rest]].concat()
    }

    fn reply(number: i32, error: i32, body: &[u8]) -> Vec<u8> {
        [&ints(&[number, 0, 9, error])[..], body].concat()
    }

    fn event(kind: i32, path: &str) -> Vec<u8> {
        reply(-1, 0, &[&ints(&[kind, 3, path.len().try_into().unwrap()])[..], path.as_bytes()].concat())
    }

    fn greeted() -> Guard {
        let mut guard = Guard::new("/c/a");
        guard.request(&connect(0));
        guard.reply(&greeting(0, 6000, 7, 16, 17)).unwrap();
        guard
    }

    /// Asks with number 1.
    fn asked(kind: i32, watch: u8) -> Guard {
        let mut guard = greeted();
        guard.request(&[&ints(&[1, kind])[..], &[watch]].concat());
        guard
    }

    #[test]
    fn a_greeting_is_zookeepers() {
        let greets = |frame: &[u8]| {
            let mut guard = Guard::new("/a");
            guard.request(&connect(0));
            guard.reply(frame).is_ok()
        };
        for (version, millis, session, password, rest, good) in [
            (0, 6000, 7, 16, 17, true),
            (0, 6000, 7, 16, 16, true),
            (0, 0, 0, 16, 17, false),
            (0, 10_000, 7, 16, 17, true),
            (0, 0, 7, 16, 17, false),
            (0, 50, 7, 16, 17, false),
            (0, i32::MAX, 7, 16, 17, false),
            (0, -1, 7, 16, 17, false),
            (1, 6000, 7, 16, 17, false),
            (0, 6000, 7, 0, 1, false),
            (0, 6000, 7, -1, 17, false),
            (0, 6000, 7, i32::MAX, 17, false),
            (0, 6000, 7, 16, 15, false),
            (0, 6000, 7, 16, 18, true),
            (0, 6000, 7, 90, 90, false),
        ] {
            assert_eq!(
                greets(&greeting(version, millis, session, password, rest)),
                good,
                "{version} {millis} {password}"
            );
        }
        assert!(!greets(b"") && !greets(&[0; 30]));
        // The one that is asked for may have ended.
        let mut guard = Guard::new("/a");
        guard.request(&connect(7));
        assert!(guard.reply(&greeting(0, 0, 0, 16, 17)).is_ok());
    }

    #[test]
    fn an_answer_is_to_a_question_and_has_its_shape() {
        let stat = [0; STAT];
        let data = |n: i32| [&ints(&[n])[..], b"data", &stat].concat();
        for (kind, error, body, good) in [
            (op::GET_DATA, 0, data(4), true),
            (op::GET_DATA, 0, [&ints(&[-1])[..], &stat].concat(), true),
            (op::GET_DATA, 0, data(5), false),
            (op::GET_DATA, 0, data(i32::MAX), false),
            (op::GET_DATA, 0, data(-1), false),
            (op::GET_DATA, 0, Vec::new(), false),
            (op::GET_DATA, -101, Vec::new(), true),
            (op::GET_DATA, -12_345, Vec::new(), true),
            (op::EXISTS, 0, stat.to_vec(), true),
            (op::EXISTS, 0, Vec::new(), false),
            (op::SET_DATA, 0, stat[1..].to_vec(), false),
            (op::GET_ACL, 0, [ints(&[1, 31, 0, 0]), stat.to_vec()].concat(), true),
            (op::GET_ACL, 0, ints(&[i32::MAX, 31, 0, 0]), false),
            (op::GET_ACL, 0, Vec::new(), false),
        ] {
            let answer = asked(kind, 0).reply(&reply(1, error, &body));
            assert_eq!(answer.is_ok(), good, "{kind} {error} {body:?}");
        }
        assert!(asked(op::GET_DATA, 0).reply(&reply(2, 0, &data(4))).is_err());
        assert!(asked(op::GET_DATA, 0).reply(&[0; 15]).is_err());
        assert!(greeted().reply(&reply(-2, 0, &[])).is_err());
        let mut guard = asked(op::GET_DATA, 0);
        guard.reply(&reply(1, 0, &data(4))).unwrap();
        assert!(guard.answered && guard.reply(&reply(1, 0, &data(4))).is_err());
    }

    #[test]
    fn a_watch_fires_as_often_as_it_was_set() {
        let mut guard = asked(op::GET_DATA, 1);
        assert!(guard.reply(&event(3, "/c/b")).is_err());
        assert!(guard.reply(&event(4, "/c/a")).is_err());
        assert!(guard.reply(&event(3, "/c/a")).is_ok());
        assert!(guard.reply(&event(3, "/c/a")).is_err());
        guard.request(&ints(&[-8, op::SET_WATCHES]));
        assert!(guard.reply(&event(2, "/c/a")).is_ok());
        assert!(asked(op::GET_DATA, 0).reply(&event(3, "/c/a")).is_err());
    }

    /// Whatever bytes come, looking at them ends.
    #[test]
    fn random_bytes_are_looked_at() {
        let mut dice = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let length = dice.usize(..200);
            let bytes: Vec<u8> = std::iter::repeat_with(|| dice.u8(..)).take(length).collect();
            let mut guard = if dice.bool() { asked(dice.i32(1..7), 1) } else { Guard::new("") };
            guard.request(&bytes);
            let _ = guard.reply(&bytes);
            let _ = guard.reply(&reply(1, 0, &bytes));
        }
    }
}
