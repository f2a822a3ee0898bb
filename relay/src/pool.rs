//! The peers: who they are, and a connection to each.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::dial::{Dialer, Link, Target};

/// Peers by name.
pub(crate) type Targets = BTreeMap<String, Target>;

/// All peers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    /// What each source of names says.
    sources: Mutex<Sources>,
    peers: watch::Sender<Arc<BTreeMap<String, Arc<Peer>>>>,
    /// Counts changes of peers and of their states.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Sources {
    targets: Vec<Targets>,
    connected: Vec<bool>,
}

/// A peer. A change of its address makes another one.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) counts: PeerCounts,
    state: Mutex<PeerState>,
    task: Mutex<Option<AbortHandle>>,
}

/// What came from a peer, in all answers together.
#[derive(Debug, Default)]
pub(crate) struct PeerCounts {
    pub(crate) flows: AtomicU64,
    /// Flows that came after later ones had left.
    pub(crate) late: AtomicU64,
    /// Flows that it said were lost.
    pub(crate) lost: AtomicU64,
    /// Answers in which it was not waited for any more.
    pub(crate) stalls: AtomicU64,
}

/// How it stands with a peer.
#[derive(Clone, Debug)]
pub(crate) enum PeerState {
    /// The first attempt is under way.
    Connecting,
    /// Connected.
    Ready(Link),
    /// Not connected; tried again.
    Failed,
}

impl Peer {
    pub(crate) fn state(&self) -> PeerState {
        self.state.lock().clone()
    }

    /// The connection, when there is one.
    pub(crate) fn link(&self) -> Option<Link> {
        match &*self.state.lock() {
            PeerState::Ready(link) if !link.is_closed() => Some(link.clone()),
            _ => None,
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let task = self.task.get_mut().take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Pool {
    /// A pool whose peers are named by so many sources.
    pub(crate) fn new(dialer: Dialer, sources: usize) -> Self {
        let sources = Sources { targets: vec![Targets::new(); sources], connected: vec![false; sources] };
        Self {
            shared: Arc::new(Shared {
                dialer,
                sources: Mutex::new(sources),
                peers: watch::Sender::default(),
                changes: watch::Sender::new(0),
            }),
        }
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.shared.dialer
    }

    /// The peers now.
    pub(crate) fn peers(&self) -> Arc<BTreeMap<String, Arc<Peer>>> {
        Arc::clone(&self.shared.peers.borrow())
    }

    /// Tells of changes of peers and of their states.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whether every source of names was heard, and still is.
    pub(crate) fn knows_all(&self) -> bool {
        self.shared.sources.lock().connected.iter().all(|connected| *connected)
    }

    /// Whether a source of names can be asked.
    pub(crate) fn set_connected(&self, source: usize, is_connected: bool) {
        if let Some(connected) = self.shared.sources.lock().connected.get_mut(source) {
            *connected = is_connected;
        }
        self.shared.changed();
    }

    /// Takes what a source of names says now. The same peer named by several is one; the first one's address counts.
    pub(crate) fn update(&self, source: usize, targets: Targets) {
        let mut all = Targets::new();
        let mut sources = self.shared.sources.lock();
        if let Some(known) = sources.targets.get_mut(source) {
            *known = targets;
        }
        for targets in &sources.targets {
            for (name, target) in targets {
                all.entry(name.clone()).or_insert_with(|| target.clone());
            }
        }
        // Under the lock: the last update wins.
        let mut added = Vec::new();
        self.shared.peers.send_modify(|peers| {
            let mut next = BTreeMap::new();
            for (name, target) in all {
                let peer = match peers.get(&name).filter(|peer| peer.target == target) {
                    Some(peer) => Arc::clone(peer),
                    None => {
                        let peer = Arc::new(Peer {
                            name: name.clone(),
                            target,
                            counts: PeerCounts::default(),
                            state: Mutex::new(PeerState::Connecting),
                            task: Mutex::new(None),
                        });
                        added.push(Arc::clone(&peer));
                        peer
                    }
                };
                next.insert(name, peer);
            }
            *peers = Arc::new(next);
        });
        drop(sources);
        for peer in added {
            tracing::debug!(peer = peer.name, address = peer.target.address, "peer");
            let task = tokio::spawn(keep_connected(Arc::downgrade(&peer), Arc::clone(&self.shared)));
            *peer.task.lock() = Some(task.abort_handle());
        }
        self.shared.changed();
    }
}

impl Shared {
    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Connects again and again, as long as somebody knows the peer.
async fn keep_connected(peer: std::sync::Weak<Peer>, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(target) = peer.upgrade().map(|peer| peer.target.clone()) else { return };
        let reason = match shared.dialer.dial(&target).await {
            Err(error) => error.to_string(),
            Ok((link, connection)) => {
                if !note(&peer, &shared, PeerState::Ready(link)) {
                    return;
                }
                let begun = tokio::time::Instant::now();
                let ended = connection.await;
                // A peer that only takes connections and drops them is not asked all the time.
                if begun.elapsed() > STEADY {
                    pause = FIRST_PAUSE;
                }
                ended.map_or_else(|error| error.to_string(), |()| "the peer closed the connection".to_owned())
            }
        };
        tracing::debug!(address = target.address, reason, "peer is not connected");
        if !note(&peer, &shared, PeerState::Failed) {
            return;
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn note(peer: &std::sync::Weak<Peer>, shared: &Shared, state: PeerState) -> bool {
    let Some(peer) = peer.upgrade() else { return false };
    *peer.state.lock() = state;
    shared.changed();
    true
}

/// Between half of it and one and a half, so that a thousand relays or peers do not come at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + (random >> 11) as f64 / (1_u64 << 53) as f64)
}

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that lasted so long begins anew with short pauses.
const STEADY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..=Duration::from_secs(3)).contains(&pause));
        }
    }
}
