//! Who may have a connection when there are no more places. A connection whose request has not arrived whole, or that
//! has none, can be let go: nothing is lost but the time of who opened it. So where every place is taken, the peer that
//! has the most of those loses its oldest, and a peer that has few is answered however many another opens.
//!
//! There is no limit per peer as long as there is room: behind one address may be a whole cluster.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Time between two lines in the log that say so.
const SAID: Duration = Duration::from_secs(60);

/// Who is at the other end, as far as that can be seen before a request is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    Address(IpAddr),
    /// Of a unix socket.
    User(u32),
}

impl Peer {
    /// Of an IPv6 address the network only: its host can have as many addresses as it likes.
    pub(super) fn at(address: IpAddr) -> Peer {
        Peer::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
            address => address,
        })
    }
}

/// The places of one listener.
#[derive(Clone)]
pub(super) struct Places(Arc<Shared>);

struct Shared {
    limit: usize,
    state: Mutex<State>,
    /// A place became free, or could be made free.
    changed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    taken: HashMap<u64, Taken>,
    /// Those that can be let go, by how long they could.
    loose: HashMap<Peer, BTreeMap<u64, u64>>,
    /// Those that were told to, and are still there.
    leaving: usize,
    said: Option<Instant>,
}

struct Taken {
    peer: Peer,
    /// Where it stands among those that can be let go.
    since: Option<u64>,
    is_leaving: bool,
    leave: Arc<Notify>,
}

/// One connection's place, free again with its value.
pub(super) struct Place {
    pub(super) arrival: Arrival,
    leave: Arc<Notify>,
}

/// Of a request: to be told when it is whole, and its sender known.
#[derive(Clone)]
pub(crate) struct Arrival {
    places: Places,
    number: u64,
}

impl Places {
    pub(super) fn new(limit: usize) -> Places {
        Places(Arc::new(Shared { limit, state: Mutex::default(), changed: Notify::new() }))
    }

    /// A place, as soon as there is one.
    pub(super) async fn take(&self, peer: Peer) -> Place {
        loop {
            if let Some(place) = self.try_take(peer) {
                return place;
            }
            // Keeps what came meanwhile: one task asks.
            self.0.changed.notified().await;
        }
    }

    /// A place, or one is made free for a later try.
    fn try_take(&self, peer: Peer) -> Option<Place> {
        let mut state = self.state();
        if state.taken.len() >= self.0.limit {
            state.let_one_go();
            return None;
        }
        let number = state.number();
        let leave = Arc::new(Notify::new());
        state.taken.insert(number, Taken { peer, since: None, is_leaving: false, leave: leave.clone() });
        state.loosen(number);
        Some(Place { arrival: Arrival { places: self.clone(), number }, leave })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn loosen(&mut self, number: u64) {
        let since = self.number();
        let Some(taken) = self.taken.get_mut(&number) else { return };
        if taken.since.is_none() && !taken.is_leaving {
            taken.since = Some(since);
            self.loose.entry(taken.peer).or_default().insert(since, number);
        }
    }

    fn hold(&mut self, number: u64) {
        let Some(taken) = self.taken.get_mut(&number) else { return };
        let (peer, since) = (taken.peer, taken.since.take());
        if let (Some(since), Some(of_peer)) = (since, self.loose.get_mut(&peer)) {
            of_peer.remove(&since);
            if of_peer.is_empty() {
                self.loose.remove(&peer);
            }
        }
    }

    /// Tells one connection to leave, unless another still is about to.
    fn let_one_go(&mut self) {
        if self.leaving > 0 {
            return;
        }
        let oldest = |of_peer: &BTreeMap<u64, u64>| of_peer.first_key_value().map(|(_, number)| *number);
        let most =
            self.loose.iter().max_by_key(|(_, of_peer)| (of_peer.len(), std::cmp::Reverse(oldest(of_peer))));
        let Some((peer, of_peer)) = most else { return };
        let Some(number) = oldest(of_peer) else { return };
        if self.said.is_none_or(|said| said.elapsed() >= SAID) {
            tracing::warn!(
                ?peer,
                connections = of_peer.len(),
                "all connections are taken: those without a whole request are closed, first those of who has the most"
            );
            self.said = Some(Instant::now());
        }
        self.hold(number);
        if let Some(taken) = self.taken.get_mut(&number) {
            taken.is_leaving = true;
            taken.leave.notify_one();
            self.leaving += 1;
        }
    }
}

impl Place {
    /// Comes back when the connection is to be closed for another one.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Arrival { places, number } = &self.arrival;
        let mut state = places.state();
        state.hold(*number);
        if state.taken.remove(number).is_some_and(|taken| taken.is_leaving) {
            state.leaving -= 1;
        }
        drop(state);
        places.0.changed.notify_one();
    }
}

impl Arrival {
    /// The request is whole and will be answered, whatever that takes.
    pub(crate) fn is_whole(&self) {
        self.places.state().hold(self.number);
    }

    /// It is answered.
    pub(super) fn is_over(&self) {
        self.places.state().loosen(self.number);
        self.places.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::at(text.parse().unwrap())
    }

    fn is_told(place: &Place) -> bool {
        use std::task::{Context, Waker};
        let mut told = std::pin::pin!(place.told_to_leave());
        told.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_peer_is_an_ipv4_address_or_an_ipv6_network() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(peer(one) == peer(other), same, "{one} {other}");
        }
    }

    #[test]
    fn who_has_the_most_unfinished_connections_loses_the_oldest_of_them() {
        let places = Places::new(5);
        let (greedy, honest, newcomer) = (peer("10.0.0.1"), peer("10.0.0.2"), peer("10.0.0.3"));
        let first = places.try_take(honest).unwrap();
        let mut of_greedy: Vec<_> = (0..4).map(|_| places.try_take(greedy).unwrap()).collect();
        // Whose request is whole stays, though it is the oldest; answered, it is the youngest.
        of_greedy[0].arrival.is_whole();
        of_greedy[1].arrival.is_whole();
        of_greedy[1].arrival.is_over();
        assert!(!of_greedy.iter().any(is_told), "nobody is let go for nothing");
        assert!(places.try_take(newcomer).is_none());
        let told: Vec<_> = of_greedy.iter().map(is_told).collect();
        assert_eq!((told, is_told(&first)), (vec![false, false, true, false], false));
        assert!(places.try_take(newcomer).is_none());
        assert!(!of_greedy.iter().any(is_told), "one for one, and it is about to leave");
        // What it says on its way out changes nothing.
        of_greedy[2].arrival.is_over();
        drop(of_greedy.remove(2));
        let second = places.try_take(newcomer).unwrap();
        // Nobody is let go who is being answered.
        for place in of_greedy.iter().chain([&first, &second]) {
            place.arrival.is_whole();
        }
        assert!(places.try_take(newcomer).is_none());
        assert!(!of_greedy.iter().chain([&first, &second]).any(is_told));
        drop((of_greedy, first, second));
        assert!(places.state().taken.is_empty() && places.state().loose.is_empty());
        assert_eq!(places.state().leaving, 0);
    }
}
