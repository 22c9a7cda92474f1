//! Who is connected. There are `server.max_connections` places for all peers together, and others for the unix sockets.
//! When they are taken, the peer that has most of them loses one, first those that never asked anything, then the one that
//! was idle longest; so a newcomer gets in, whatever a crowd does. A few places beyond them are for questions about health.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::peer::Peer;

/// Beyond so many of those who have not asked anything yet, the oldest makes room; each is a socket and a few KiB.
const MOST_SILENT: usize = 256;
/// An honest client has asked by then.
const A_WHILE: Duration = Duration::from_secs(1);
/// Places beyond all others: at the ports for questions about health, at the unix sockets for root.
const RESERVE: usize = 32;
/// Places at the unix sockets.
const SOCKETS: usize = 256;

/// Where a client comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Port,
    UnixSocket,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It has not asked anything yet.
    Silent,
    /// Between two questions.
    Idle,
    /// It is being answered, or told news.
    Busy,
}

pub(crate) struct Crowd {
    ports: Mutex<Places>,
    sockets: Mutex<Places>,
    next: AtomicU64,
}

struct Places {
    most: usize,
    most_silent: usize,
    taken: BTreeMap<u64, Place>,
}

struct Place {
    peer: Peer,
    stage: Stage,
    since: Instant,
    /// One of the reserve.
    limited: bool,
    out: CancellationToken,
}

/// A place, until it is dropped.
pub(super) struct Member {
    crowd: Arc<Crowd>,
    door: Door,
    number: u64,
    out: CancellationToken,
    /// It may only ask whether the daemon is well.
    pub(super) limited: bool,
}

/// A newcomer's place, and who had to go for it.
pub(super) struct Admitted {
    pub(super) member: Member,
    pub(super) gone: Option<Peer>,
}

impl Crowd {
    pub(super) fn new(connections: usize) -> Arc<Self> {
        let places = |most: usize| {
            let most_silent = MOST_SILENT.min(most / 4).max(1);
            Mutex::new(Places { most, most_silent, taken: BTreeMap::new() })
        };
        Arc::new(Self { ports: places(connections), sockets: places(SOCKETS), next: AtomicU64::default() })
    }

    pub(super) fn enter(self: &Arc<Self>, door: Door, peer: Peer) -> Admitted {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let out = CancellationToken::new();
        let mut places = self.places(door);
        let (limited, gone) = places.make_room(peer, door);
        let place = Place { peer, stage: Stage::Silent, since: Instant::now(), limited, out: out.clone() };
        places.taken.insert(number, place);
        let gone = gone.or_else(|| places.hurry());
        Admitted { member: Member { crowd: self.clone(), door, number, out, limited }, gone }
    }

    /// There are no descriptors left: somebody who asks nothing goes, whoever has most of those.
    pub(super) fn shed(&self) -> Option<Peer> {
        let out = self.places(Door::Port).push_out(|p| p.stage < Stage::Busy, 2);
        out.or_else(|| self.places(Door::UnixSocket).push_out(|p| p.stage < Stage::Busy, 2))
    }

    pub(crate) fn is_empty(&self) -> bool {
        [Door::Port, Door::UnixSocket].into_iter().all(|door| self.places(door).taken.is_empty())
    }

    fn places(&self, door: Door) -> MutexGuard<'_, Places> {
        let places = match door {
            Door::Port => &self.ports,
            Door::UnixSocket => &self.sockets,
        };
        places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// A place for one more of this peer: is it one of the reserve, and who had to go?
    fn make_room(&mut self, peer: Peer, door: Door) -> (bool, Option<Peer>) {
        let of_all = self.taken.values().filter(|p| !p.limited).count();
        if of_all < self.most {
            return (false, None);
        }
        let late = |p: &Place| p.stage == Stage::Silent && p.since.elapsed() > A_WHILE;
        if let Some(gone) = self.push_out(|p| late(p) && !p.limited, 1) {
            return (false, Some(gone));
        }
        // Afterwards the other one still has no fewer.
        let own = self.taken.values().filter(|p| p.peer == peer && !p.limited).count();
        if let Some(gone) = self.push_out(|p| p.peer != peer && !p.limited, own + 2) {
            return (false, Some(gone));
        }
        // Its own, even those that have just come: they were many.
        let silent = |p: &Place| p.stage == Stage::Silent && p.peer == peer;
        if let Some(gone) = self.push_out(|p| silent(p) && !p.limited, 1) {
            return (false, Some(gone));
        }
        if door == Door::UnixSocket && peer == Peer::ROOT {
            let room = of_all < self.most + RESERVE;
            return (false, if room { None } else { self.push_out(|p| p.peer == peer, 1) });
        }
        let own = self.taken.values().filter(|p| p.peer == peer && p.limited).count();
        let full = self.taken.values().filter(|p| p.limited).count() >= RESERVE;
        let others = |p: &Place| p.peer != peer && p.limited;
        (true, if full { self.push_out(others, own + 2).or_else(|| self.push_out(|p| p.limited, 1)) } else { None })
    }

    /// Of too many who say nothing the oldest goes, once it had time to.
    fn hurry(&mut self) -> Option<Peer> {
        let silent = |p: &&Place| p.stage == Stage::Silent && !p.limited;
        let many = self.taken.values().filter(silent).count() > self.most_silent;
        let late = many && self.taken.values().find(silent).is_some_and(|p| p.since.elapsed() > A_WHILE);
        if late {
            self.push_out(|p| p.stage == Stage::Silent && !p.limited && p.since.elapsed() > A_WHILE, 1)
        } else {
            None
        }
    }

    /// Among places of a kind: the peer with most of them, if it has at least so many, loses the one that does least.
    fn push_out(&mut self, kind: impl Fn(&Place) -> bool, least: usize) -> Option<Peer> {
        let mut counts: HashMap<Peer, usize> = HashMap::new();
        for place in self.taken.values().filter(|p| kind(p)) {
            *counts.entry(place.peer).or_default() += 1;
        }
        let (peer, _) = counts.into_iter().filter(|(_, n)| *n >= least).max_by_key(|(_, n)| *n)?;
        let of_it = self.taken.iter().filter(|(_, p)| p.peer == peer && kind(p));
        let (number, _) = of_it.min_by_key(|(number, p)| (p.stage, p.since, **number))?;
        let number = *number;
        self.taken.remove(&number)?.out.cancel();
        Some(peer)
    }
}

impl Member {
    /// Fires when somebody else needs the place.
    pub(super) fn pushed_out(&self) -> CancellationToken {
        self.out.clone()
    }

    /// What it does from now on.
    pub(super) fn is(&self, stage: Stage) {
        if let Some(place) = self.crowd.places(self.door).taken.get_mut(&self.number)
            && place.stage != stage
        {
            (place.stage, place.since) = (stage, Instant::now());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crowd.places(self.door).taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(crowd: &Arc<Crowd>, uid: u32, stage: Stage) -> Member {
        let member = crowd.enter(Door::Port, Peer::User(uid)).member;
        member.is(stage);
        member
    }

    fn there(members: &[Member]) -> usize {
        members.iter().filter(|m| !m.out.is_cancelled()).count()
    }

    #[test]
    fn a_newcomer_gets_in_whatever_a_crowd_does() {
        for stage in [Stage::Silent, Stage::Idle, Stage::Busy] {
            let crowd = Crowd::new(1024);
            let many: Vec<_> = (0..1024).map(|_| enter(&crowd, 65_534, stage)).collect();
            assert!(many.iter().all(|m| !m.limited) && there(&many) == 1024, "{stage:?}");
            let others: Vec<_> = (0..600).map(|_| enter(&crowd, 1000, stage)).collect();
            let inside = others.iter().filter(|m| !m.limited && !m.out.is_cancelled()).count();
            assert!(inside >= 500 && there(&many) >= 424, "{stage:?}: {inside}");
            // A third takes from the larger of both.
            let third = enter(&crowd, 1001, stage);
            assert!(!third.limited && !third.out.is_cancelled());
            assert!(crowd.ports.lock().unwrap().taken.len() <= 1024 + RESERVE);
        }
    }

    #[test]
    fn who_does_least_goes_first() {
        let crowd = Crowd::new(4);
        let members: Vec<_> = [Stage::Busy, Stage::Idle, Stage::Idle, Stage::Busy].map(|s| enter(&crowd, 1, s)).into();
        members[1].is(Stage::Busy);
        members[1].is(Stage::Idle);
        let newcomer = enter(&crowd, 2, Stage::Idle);
        assert!(members[2].out.is_cancelled() && there(&members) == 3 && !newcomer.limited);
        let second = enter(&crowd, 2, Stage::Idle);
        assert!(members[1].out.is_cancelled() && !second.limited);
        // Two each: neither takes from the other, and only health is left to ask about.
        assert!(enter(&crowd, 2, Stage::Idle).limited && enter(&crowd, 1, Stage::Idle).limited);
        assert_eq!(there(&members), 2);
        drop((members, newcomer, second));
        assert!(crowd.is_empty());
    }

    #[test]
    fn the_reserve_is_shared_as_well() {
        let crowd = Crowd::new(4);
        let _inside: Vec<_> = (0..4).map(|_| enter(&crowd, 1, Stage::Busy)).collect();
        let reserve: Vec<_> = (0..10 * RESERVE).map(|_| enter(&crowd, 1, Stage::Busy)).collect();
        assert!(reserve.iter().all(|m| m.limited) && there(&reserve) == RESERVE);
        // The newest of them is in.
        assert!(!reserve.last().unwrap().out.is_cancelled());
        let other = [enter(&crowd, 2, Stage::Busy), enter(&crowd, 2, Stage::Busy)];
        assert!(!other[0].limited && there(&other) == 2);
    }

    #[test]
    fn root_gets_in_at_the_unix_socket_even_among_its_own() {
        let crowd = Crowd::new(4);
        let root = |n: usize| -> Vec<_> { (0..n).map(|_| crowd.enter(Door::UnixSocket, Peer::ROOT).member).collect() };
        let mine = root(SOCKETS + 3 * RESERVE);
        mine.iter().for_each(|m| m.is(Stage::Busy));
        let again = root(2 * RESERVE);
        assert!(again.iter().chain(&mine).all(|m| !m.limited) && !again.last().unwrap().out.is_cancelled());
        assert!(crowd.sockets.lock().unwrap().taken.len() <= SOCKETS + RESERVE);
        // The ports are another matter.
        assert!(crowd.ports.lock().unwrap().taken.is_empty());
    }

    #[test]
    fn who_says_nothing_makes_room_but_not_at_once() {
        let crowd = Crowd::new(1024);
        let oldest = enter(&crowd, 1, Stage::Silent);
        let many: Vec<_> = (0..2 * MOST_SILENT).map(|_| enter(&crowd, 1, Stage::Silent)).collect();
        // A crowd that has just come may be honest.
        assert!(!oldest.out.is_cancelled() && there(&many) == many.len());
        for place in crowd.ports.lock().unwrap().taken.values_mut().take(2) {
            place.since -= 2 * A_WHILE;
        }
        let late = enter(&crowd, 2, Stage::Silent);
        assert!(oldest.out.is_cancelled() && !many[0].out.is_cancelled() && !late.out.is_cancelled());
    }
}
