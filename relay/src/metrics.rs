//! What a relay counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use specola_telemetry::Metrics;
use specola_telemetry::prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use crate::pool::{PeerState, Pool};

/// Numbers of all answers together.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) open: Gauge,
    pub(crate) flows: Counter,
    pub(crate) late: Counter,
    pub(crate) lost: Counter,
    pub(crate) stalled: Counter,
    /// Answers held for ordering, of the answer that was looked at last.
    pub(crate) held: AtomicU64,
}

type Label = [(&'static str, &'static str); 1];

/// Counters of each peer.
#[derive(Debug, Default)]
struct PeerFamilies([Family<[(&'static str, String); 1], Counter>; 4]);

impl PeerFamilies {
    fn register(&self, metrics: &Metrics) {
        let texts = [
            ("peer_flows", "Flows that came from a peer"),
            ("peer_flows_late", "Of these, those that came after later ones had left"),
            ("peer_flows_lost", "Flows that a peer said were lost"),
            ("peer_stalls", "Answers in which a peer was not waited for any more"),
        ];
        metrics.register_as("specola_relay", |registry| {
            for ((name, help), family) in texts.into_iter().zip(&self.0) {
                registry.register(name, help, family.clone());
            }
        });
    }

    /// Takes what the peers count; peers that left have no series any more.
    fn refresh(&self, pool: &Pool) {
        self.0.iter().for_each(Family::clear);
        for (name, peer) in pool.peers().iter() {
            let counts = &peer.counts;
            let numbers = [&counts.flows, &counts.late, &counts.lost, &counts.stalls];
            for (family, number) in self.0.iter().zip(numbers) {
                family.get_or_create(&[("peer", name.clone())]).inner().store(number.load(Relaxed), Relaxed);
            }
        }
    }
}

/// Registers everything. Gives what brings the gauges up to date.
pub(crate) fn register(
    metrics: &Metrics,
    counters: &Arc<Counters>,
    pool: &Pool,
) -> impl Fn() + Send + Sync + use<> {
    let held = Gauge::<i64>::default();
    let peers = Family::<Label, Gauge>::default();
    let of_peers = PeerFamilies::default();
    of_peers.register(metrics);
    metrics.register_as("specola_relay", |registry| {
        registry.register("streams", "Answers to GetFlows that are open", counters.open.clone());
        registry.register("flows", "Flows sent to clients", counters.flows.clone());
        registry.register("flows_late", "Of these, those that came after later ones", counters.late.clone());
        registry.register("flows_lost", "Flows that nodes said were lost", counters.lost.clone());
        registry.register("stalls", "Nodes that were not waited for any more", counters.stalled.clone());
        registry.register("held", "Answers held to be put in order", held.clone());
    });
    metrics.register_as("hubble_relay", |registry| {
        registry.register("pool_peer_connection_status", "Peers by state of the connection", peers.clone());
    });
    let (counters, pool) = (Arc::clone(counters), pool.clone());
    move || {
        held.set(i64::try_from(counters.held.load(Relaxed)).unwrap_or(i64::MAX));
        of_peers.refresh(&pool);
        let (mut ready, mut connecting, mut failed) = (0, 0, 0);
        for peer in pool.peers().values() {
            *match peer.state() {
                PeerState::Ready(_) => &mut ready,
                PeerState::Connecting => &mut connecting,
                PeerState::Failed => &mut failed,
            } += 1;
        }
        for (state, count) in [
            ("READY", ready),
            ("CONNECTING", connecting),
            ("TRANSIENT_FAILURE", failed),
            ("IDLE", 0),
            ("SHUTDOWN", 0),
            ("NIL_CONNECTION", 0),
        ] {
            peers.get_or_create(&[("status", state)]).set(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dial::{Dialer, Target};
    use crate::pool::Targets;

    #[tokio::test]
    async fn peers_have_counters_as_long_as_they_are_known() {
        let dialer = Dialer { tls: None, timeout: Duration::from_secs(1), window: 65_535 };
        let (pool, metrics) = (Pool::new(dialer, 1), Metrics::new());
        let refresh = register(&metrics, &Arc::default(), &pool);
        let target = Target { address: "unix:///nobody.sock".to_owned(), ..Target::default() };
        pool.update(0, Targets::from([("n1".to_owned(), target)]));
        pool.peers()["n1"].counts.flows.fetch_add(7, Relaxed);
        refresh();
        let text = metrics.encode().unwrap();
        assert!(text.contains("specola_relay_peer_flows_total{peer=\"n1\"} 7\n"), "{text}");
        pool.update(0, Targets::new());
        refresh();
        assert!(!metrics.encode().unwrap().contains("n1"));
    }
}
