//! Namespaces that flows came from or went to.

use std::collections::HashMap;

use parking_lot::Mutex;
use specola_flow::{DEFAULT_CLUSTER, EndpointMeta, MetaHandle, Metas};

/// How long a namespace is listed after its last flow, ns.
const TTL_NS: u64 = 3_600 * SECOND_NS;
/// How often an endpoint's namespace is noted at most, ns.
const REFRESH_NS: u64 = 60 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;

/// Cluster (empty for the default one) and namespace.
pub(crate) type ClusterNamespace = (String, String);

/// The shared list.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    seen: Mutex<HashMap<ClusterNamespace, u64>>,
}

impl Namespaces {
    /// Namespaces seen within the last hour, sorted by cluster, then namespace.
    pub(crate) fn list(&self, now_ns: u64) -> Vec<ClusterNamespace> {
        let mut seen = self.seen.lock();
        seen.retain(|_, last| now_ns.saturating_sub(*last) < TTL_NS);
        let mut list: Vec<_> = seen.keys().cloned().collect();
        list.sort();
        list
    }

    fn note(&self, meta: &EndpointMeta, time_ns: u64) {
        if meta.namespace.is_empty() {
            return;
        }
        let cluster = if meta.cluster_name == DEFAULT_CLUSTER { "" } else { &meta.cluster_name };
        let mut seen = self.seen.lock();
        let last = seen.entry((cluster.to_owned(), meta.namespace.clone())).or_default();
        *last = time_ns.max(*last);
    }
}

/// The pipeline's side: notes each endpoint at most once a minute, so that a flow costs two array reads.
#[derive(Debug, Default)]
pub(crate) struct NamespaceTracker {
    /// By the handle's place: which one was noted last, and when, ns.
    noted: Vec<(MetaHandle, u64)>,
}

impl NamespaceTracker {
    pub(crate) fn track(&mut self, handle: MetaHandle, time_ns: u64, metas: &Metas, list: &Namespaces) {
        let Some(place) = handle.place() else {
            return;
        };
        let is_fresh =
            |(noted, last): &(MetaHandle, u64)| *noted == handle && time_ns < last.saturating_add(REFRESH_NS);
        if self.noted.get(place).is_some_and(is_fresh) {
            return;
        }
        let Some(meta) = metas.get(handle) else {
            return;
        };
        // Places count up without gaps, so this is as long as the table at most.
        if place >= self.noted.len() {
            self.noted.resize(place + 1, (MetaHandle::NONE, 0));
        }
        if let Some(noted) = self.noted.get_mut(place) {
            *noted = (handle, time_ns);
        }
        list.note(meta, time_ns);
    }
}

#[cfg(test)]
mod tests {
    use specola_flow::MetaInterner;

    use super::*;

    #[test]
    fn listed_for_an_hour_after_the_last_flow() {
        let mut interner = MetaInterner::new();
        let mut pod = |namespace: &str, cluster: &str| {
            interner
                .intern(EndpointMeta {
                    namespace: namespace.into(),
                    cluster_name: cluster.into(),
                    ..EndpointMeta::default()
                })
                .unwrap()
        };
        let handles = [pod("shop", "default"), pod("other", "east"), pod("", "default"), pod("bar", "")];
        let table = interner.table().load();
        let (mut tracker, list) = (NamespaceTracker::default(), Namespaces::default());
        for handle in handles.into_iter().chain([MetaHandle::NONE]) {
            tracker.track(handle, SECOND_NS, &table, &list);
        }
        let name = |cluster: &str, namespace: &str| (cluster.to_owned(), namespace.to_owned());
        assert_eq!(list.list(SECOND_NS), [name("", "bar"), name("", "shop"), name("east", "other")]);
        tracker.track(handles[0], SECOND_NS + REFRESH_NS - 1, &table, &list);
        tracker.track(handles[1], SECOND_NS + REFRESH_NS, &table, &list);
        assert_eq!(list.list(SECOND_NS + TTL_NS), [name("east", "other")]);
        assert_eq!(list.list(SECOND_NS + TTL_NS + REFRESH_NS), []);
    }
}
