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

/// Registers everything. Gives what brings the gauges up to date.
pub(crate) fn register(
    metrics: &Metrics,
    counters: &Arc<Counters>,
    pool: &Pool,
) -> impl Fn() + Send + Sync + use<> {
    let held = Gauge::<i64>::default();
    let peers = Family::<Label, Gauge>::default();
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
