//! The one side that changes the directory.

use std::{net::IpAddr, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use specola_flow::{EndpointMeta, MetaHandle, MetaInterner, NodeInfo, PolicyOrigin, TableFull, WireOrigins};
use specola_labels::{LabelSet, NumericIdentity};

use crate::{
    addresses::IpEntry,
    retired::{Held, Retired},
    snapshot::{Directory, DirectoryReader, OriginSet},
};

/// One change of the directory.
#[derive(Clone, Debug)]
pub enum Change {
    /// A prefix or whole address has an identity; `meta` says who it is when it is one pod or node.
    UpsertIp {
        /// Prefix or whole address.
        prefix: IpNet,
        /// Its identity.
        identity: NumericIdentity,
        /// Who it is; `None` = described by the identity's labels alone.
        meta: Option<EndpointMeta>,
    },
    /// A prefix or whole address is not known any more.
    RemoveIp(IpNet),
    /// A local endpoint, with all its addresses. Its id is `meta.id`.
    UpsertEndpoint {
        /// Who it is.
        meta: EndpointMeta,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// A local endpoint is gone, and its addresses with it.
    RemoveEndpoint {
        /// Its id.
        id: u16,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// An identity has these labels.
    UpsertIdentity {
        /// The identity.
        identity: NumericIdentity,
        /// Its labels.
        labels: LabelSet,
        /// Cluster that it belongs to; empty for one outside of clusters.
        cluster_name: String,
    },
    /// An identity is not in use any more.
    RemoveIdentity(NumericIdentity),
    /// A cookie stands for these rules. Give it before the datapath can use the cookie.
    UpsertOrigins {
        /// The cookie.
        cookie: u32,
        /// Its rules.
        origins: Arc<[PolicyOrigin]>,
    },
    /// No further event carries the cookie. Its rules can be found as long as a flow may carry it: see
    /// [`DirectoryWriter::collect`].
    RetireOrigins(u32),
    /// An interface has this name.
    UpsertInterface {
        /// Its index.
        ifindex: u32,
        /// Its name.
        name: Arc<str>,
    },
    /// An interface is gone.
    RemoveInterface(u32),
    /// Name and labels of this node.
    SetNode(NodeInfo),
}

/// Why a change was not applied.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChangeError {
    /// There is no place for another entry.
    #[error(transparent)]
    TableFull(#[from] TableFull),
}

/// Changes the directory and publishes it. There is one per node.
#[derive(Debug)]
pub struct DirectoryWriter {
    next: Directory,
    interner: MetaInterner,
    retired: Retired,
    published: Arc<ArcSwap<Directory>>,
}

/// Makes a directory that knows the reserved identities and nothing else.
pub fn directory(node: NodeInfo) -> (DirectoryWriter, DirectoryReader) {
    let interner = MetaInterner::new();
    let published = Arc::new(ArcSwap::default());
    let reader = DirectoryReader { published: Arc::clone(&published), metas: interner.table() };
    let mut writer =
        DirectoryWriter { next: Directory::default(), interner, retired: Retired::default(), published };
    let reserved = NumericIdentity::all_reserved().filter_map(|identity| {
        let labels = identity.reserved_labels()?;
        Some(Change::UpsertIdentity { identity, labels, cluster_name: String::new() })
    });
    writer
        .apply(reserved.chain([Change::SetNode(node)]))
        .expect("a new table has room for the reserved identities");
    (writer, reader)
}

impl DirectoryWriter {
    /// Applies a batch in order and publishes the result as one snapshot.
    ///
    /// # Errors
    /// A change could not be applied. The ones before it are published, it and the ones after it are not applied.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<(), ChangeError> {
        let result = changes.into_iter().try_for_each(|change| self.stage(change));
        self.publish();
        result
    }

    /// Frees what neither this directory nor a flow that can be read refers to any more. Call it after changes, and now
    /// and then while [`Self::has_retired`].
    pub fn collect(&mut self, held: Held, now: Instant) {
        let freed = self.retired.collect(&mut self.interner, held, now);
        if !freed.is_empty() {
            let origins = Arc::make_mut(&mut self.next.origins);
            freed.iter().for_each(|cookie| drop(origins.remove(cookie)));
            self.publish();
        }
    }

    /// Whether something waits to be freed.
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Number of entries that handles lead to, those that wait to be freed among them.
    pub fn entries(&self) -> usize {
        self.interner.len()
    }

    /// A reader of this directory.
    pub fn reader(&self) -> DirectoryReader {
        DirectoryReader { published: Arc::clone(&self.published), metas: self.interner.table() }
    }

    fn publish(&mut self) {
        let old = self.published.swap(Arc::new(self.next.clone()));
        self.retired.replaced(&old);
    }

    /// The directory does not refer to this entry any more, in one of its places.
    fn release(&mut self, handle: Option<MetaHandle>) {
        if let Some(handle) = handle
            && self.interner.release(handle)
        {
            self.retired.retire_meta(handle);
        }
    }

    fn stage(&mut self, change: Change) -> Result<(), ChangeError> {
        match change {
            Change::UpsertIp { prefix, identity, meta } => self.upsert_ip(prefix, identity, meta)?,
            Change::RemoveIp(prefix) => {
                let old = Arc::make_mut(&mut self.next.addresses).remove(prefix);
                self.release(old.map(|entry| entry.meta));
            }
            Change::UpsertEndpoint { meta, addresses } => self.upsert_endpoint(meta, addresses)?,
            Change::RemoveEndpoint { id, addresses } => self.remove_endpoint(id, addresses),
            Change::UpsertIdentity { identity, labels, cluster_name } => {
                let meta = EndpointMeta { identity, labels, cluster_name, ..EndpointMeta::default() };
                let handle = self.interner.intern(meta)?;
                let old = Arc::make_mut(&mut self.next.identities).insert(identity.0, handle);
                self.release(old);
            }
            Change::RemoveIdentity(identity) => {
                let old = Arc::make_mut(&mut self.next.identities).remove(&identity.0);
                self.release(old);
            }
            Change::UpsertOrigins { cookie, origins } => {
                let set = OriginSet { wire: WireOrigins::new(&origins), origins };
                Arc::make_mut(&mut self.next.origins).insert(cookie, Arc::new(set));
                self.retired.revive_origins(cookie);
            }
            Change::RetireOrigins(cookie) => {
                if self.next.origins.contains_key(&cookie) {
                    self.retired.retire_origins(cookie);
                }
            }
            Change::UpsertInterface { ifindex, name } => {
                Arc::make_mut(&mut self.next.interfaces).insert(ifindex, name);
            }
            Change::RemoveInterface(ifindex) => {
                Arc::make_mut(&mut self.next.interfaces).remove(&ifindex);
            }
            Change::SetNode(node) => self.next.node = Arc::new(node),
        }
        Ok(())
    }

    fn upsert_ip(
        &mut self,
        prefix: IpNet,
        identity: NumericIdentity,
        meta: Option<EndpointMeta>,
    ) -> Result<(), ChangeError> {
        let endpoint = meta.as_ref().map_or(0, |meta| meta.id);
        let handle = match meta {
            Some(meta) => self.interner.intern(meta)?,
            None => MetaHandle::NONE,
        };
        let entry = IpEntry { identity: identity.0, meta: handle, endpoint };
        let old = Arc::make_mut(&mut self.next.addresses).insert(prefix, entry);
        self.release(old.map(|entry| entry.meta));
        Ok(())
    }

    fn upsert_endpoint(&mut self, meta: EndpointMeta, addresses: Vec<IpAddr>) -> Result<(), ChangeError> {
        let (identity, endpoint) = (meta.identity.0, meta.id);
        for address in addresses {
            let entry = IpEntry { identity, endpoint, meta: self.interner.intern(meta.clone())? };
            let old = Arc::make_mut(&mut self.next.addresses).insert(address.into(), entry);
            self.release(old.map(|entry| entry.meta));
        }
        let handle = self.interner.intern(meta)?;
        let old = Arc::make_mut(&mut self.next.endpoints).insert(endpoint, handle);
        self.release(old);
        Ok(())
    }

    fn remove_endpoint(&mut self, id: u16, addresses: Vec<IpAddr>) {
        let old = Arc::make_mut(&mut self.next.endpoints).remove(&id);
        self.release(old);
        for address in addresses {
            let known = Arc::make_mut(&mut self.next.addresses);
            // The address may already belong to another endpoint.
            let is_own = known.lookup(crate::mapped(address)).is_some_and(|entry| entry.endpoint == id);
            if is_own {
                let old = known.remove(address.into());
                self.release(old.map(|entry| entry.meta));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use specola_labels::Label;

    use super::*;
    use crate::{Found, mapped};

    fn pod(id: u16, identity: u32, name: &str) -> EndpointMeta {
        EndpointMeta {
            id,
            identity: NumericIdentity(identity),
            namespace: "shop".into(),
            pod_name: name.into(),
            labels: [Label::k8s("app", name)].into_iter().collect(),
            ..EndpointMeta::default()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_endpoint_is_found_by_address_and_id() {
        let (mut writer, reader) = directory(NodeInfo::default());
        let change = Change::UpsertEndpoint {
            meta: pod(7, 300, "web"),
            addresses: vec![ip("10.0.0.7"), ip("fd00::7")],
        };
        writer.apply([change]).unwrap();
        let snapshot = reader.load();
        for address in ["10.0.0.7", "fd00::7"] {
            let found = snapshot.find(mapped(ip(address)), 0);
            assert_eq!((found.identity, found.endpoint), (300, 7));
            assert_eq!(reader.metas().get(found.meta).unwrap().pod_name, "web");
        }
        assert_eq!(snapshot.endpoint(7), snapshot.find(mapped(ip("10.0.0.7")), 0).meta);
        writer
            .apply([Change::RemoveEndpoint { id: 7, addresses: vec![ip("10.0.0.7"), ip("fd00::7")] }])
            .unwrap();
        assert_eq!(reader.load().find(mapped(ip("10.0.0.7")), 0), Found::default());
        // A reader that holds the old snapshot still sees the old state.
        assert_eq!(snapshot.find(mapped(ip("10.0.0.7")), 0).endpoint, 7);
    }

    #[test]
    fn a_taken_over_address_survives_its_old_owner() {
        let (mut writer, reader) = directory(NodeInfo::default());
        let upsert = |meta| Change::UpsertEndpoint { meta, addresses: vec![ip("10.0.0.7")] };
        writer.apply([upsert(pod(7, 300, "old")), upsert(pod(8, 300, "new"))]).unwrap();
        writer.apply([Change::RemoveEndpoint { id: 7, addresses: vec![ip("10.0.0.7")] }]).unwrap();
        assert_eq!(reader.load().find(mapped(ip("10.0.0.7")), 0).endpoint, 8);
    }

    #[test]
    fn an_unknown_address_is_described_by_the_identity() {
        let (_writer, reader) = directory(NodeInfo::default());
        let snapshot = reader.load();
        let found = snapshot.find(mapped(ip("192.0.2.1")), NumericIdentity::WORLD.0);
        assert_eq!(found.identity, 2);
        assert_eq!(reader.metas().get(found.meta).unwrap().labels.to_strings(), ["reserved:world"]);
        assert_eq!(snapshot.find(mapped(ip("192.0.2.1")), 4711).meta, MetaHandle::NONE);
    }

    #[test]
    fn the_datapath_identity_wins() {
        let (mut writer, reader) = directory(NodeInfo::default());
        let prefix = "10.0.0.9/32".parse().unwrap();
        writer
            .apply([Change::UpsertIp {
                prefix,
                identity: NumericIdentity(300),
                meta: Some(pod(0, 300, "far")),
            }])
            .unwrap();
        let snapshot = reader.load();
        assert_eq!(snapshot.find(mapped(ip("10.0.0.9")), 301).identity, 301);
        assert_eq!(snapshot.find(mapped(ip("10.0.0.9")), 0).identity, 300);
    }

    #[test]
    fn cookies_interfaces_and_node() {
        let (mut writer, reader) = directory(NodeInfo::default());
        let origins: Arc<[PolicyOrigin]> =
            [PolicyOrigin { name: "p".into(), ..PolicyOrigin::default() }].into();
        writer
            .apply([
                Change::UpsertOrigins { cookie: 5, origins },
                Change::UpsertInterface { ifindex: 3, name: "eth0".into() },
                Change::SetNode(NodeInfo { name: "n1".into(), ..NodeInfo::default() }),
            ])
            .unwrap();
        let snapshot = reader.load();
        assert_eq!(snapshot.origins(5).unwrap()[0].name, "p");
        assert_eq!(snapshot.interface(3), Some("eth0"));
        assert_eq!(snapshot.node().name, "n1");
        assert!(snapshot.origins(6).is_none() && snapshot.interface(4).is_none());
    }
}
