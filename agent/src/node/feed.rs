//! Feeds the directory, by which flows get names: only what changed, one snapshot for each batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use specola_directory::{Change, ChangeError, DirectoryWriter, Held};
use specola_flow::{EndpointMeta, PolicyOrigin};
use specola_labels::{LabelSet, NumericIdentity};
use specola_policy::{IdentityTable, Origin, OriginSet};

/// A prefix with its identity and, when it is one pod, who that is.
pub(crate) type IpMeta = (NumericIdentity, Option<EndpointMeta>);

/// The directory's writer with what it was given.
#[derive(Debug)]
pub(crate) struct DirectoryFeed {
    writer: DirectoryWriter,
    cluster_name: String,
    identities: BTreeMap<NumericIdentity, LabelSet>,
    ips: HashMap<IpNet, IpMeta>,
    endpoints: BTreeMap<u16, (EndpointMeta, Vec<IpAddr>)>,
}

impl DirectoryFeed {
    pub(crate) fn new(writer: DirectoryWriter, cluster_name: &str) -> Self {
        Self {
            writer,
            cluster_name: cluster_name.to_owned(),
            identities: BTreeMap::new(),
            ips: HashMap::new(),
            endpoints: BTreeMap::new(),
        }
    }

    /// Publishes cookies. Must come before the datapath can use them.
    pub(crate) fn cookies<'a>(
        &mut self,
        cookies: impl Iterator<Item = (u32, &'a OriginSet)>,
    ) -> Result<(), ChangeError> {
        let changes: Vec<Change> = cookies
            .map(|(cookie, origins)| Change::UpsertOrigins {
                cookie,
                origins: origins.iter().map(flow_origin).collect::<Vec<_>>().into(),
            })
            .collect();
        if changes.is_empty() { Ok(()) } else { self.writer.apply(changes) }
    }

    /// Namespace and name of the pod that has this address, if one has.
    pub(super) fn pod_of(&self, prefix: IpNet) -> Option<(String, String)> {
        let is_local =
            |(_, own): &&(EndpointMeta, Vec<IpAddr>)| own.iter().any(|ip| IpNet::from(*ip) == prefix);
        let local = || self.endpoints.values().find(is_local).map(|(meta, _)| meta);
        let meta = match self.ips.get(&prefix) {
            Some((_, Some(meta))) => meta,
            _ if prefix.prefix_len() == prefix.max_prefix_len() => local()?,
            _ => return None,
        };
        Some((meta.namespace.clone(), meta.pod_name.clone()))
    }

    /// Publishes an interface's name.
    pub(crate) fn interface(&mut self, ifindex: u32, name: &str) -> Result<(), ChangeError> {
        self.writer.apply([Change::UpsertInterface { ifindex, name: Arc::from(name) }])
    }

    /// Forgets an interface.
    pub(super) fn no_interface(&mut self, ifindex: u32) -> Result<(), ChangeError> {
        self.writer.apply([Change::RemoveInterface(ifindex)])
    }

    /// Publishes identities, addresses and local endpoints as one snapshot. Of the identities only those are looked at
    /// that are in `changed`; none = all.
    pub(crate) fn publish(
        &mut self,
        table: &IdentityTable,
        changed: Option<&BTreeSet<NumericIdentity>>,
        ips: HashMap<IpNet, IpMeta>,
        endpoints: BTreeMap<u16, (EndpointMeta, Vec<IpAddr>)>,
    ) -> Result<(), ChangeError> {
        let mut changes = Vec::new();
        match changed {
            Some(changed) => self.identity_changes(table, changed.iter().copied(), &mut changes),
            None => {
                let known: BTreeSet<NumericIdentity> = self.identities.keys().copied().collect();
                let all = table.iter().map(|(identity, _)| identity).chain(known);
                self.identity_changes(table, all, &mut changes);
            }
        }
        for prefix in self.ips.keys().filter(|prefix| !ips.contains_key(*prefix)) {
            changes.push(Change::RemoveIp(*prefix));
        }
        for (id, (_, addresses)) in self.endpoints.iter().filter(|(id, _)| !endpoints.contains_key(id)) {
            changes.push(Change::RemoveEndpoint { id: *id, addresses: addresses.clone() });
        }
        for (prefix, entry) in ips.iter().filter(|(prefix, entry)| self.ips.get(*prefix) != Some(*entry)) {
            let (identity, meta) = entry.clone();
            changes.push(Change::UpsertIp { prefix: *prefix, identity, meta });
        }
        for (_, (meta, addresses)) in
            endpoints.iter().filter(|(id, entry)| self.endpoints.get(*id) != Some(*entry))
        {
            changes.push(Change::UpsertEndpoint { meta: meta.clone(), addresses: addresses.clone() });
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.ips = ips;
        self.endpoints = endpoints;
        self.writer.apply(changes)
    }

    /// Frees names that no flow refers to any more.
    pub(super) fn collect(&mut self, held: Held) {
        self.writer.collect(held, Instant::now());
    }

    /// Whether names wait to be freed.
    pub(super) fn has_retired(&self) -> bool {
        self.writer.has_retired()
    }

    fn identity_changes(
        &mut self,
        table: &IdentityTable,
        concerned: impl Iterator<Item = NumericIdentity>,
        changes: &mut Vec<Change>,
    ) {
        for identity in concerned {
            let Some(labels) = table.labels(identity) else {
                if self.identities.remove(&identity).is_some() {
                    changes.push(Change::RemoveIdentity(identity));
                }
                continue;
            };
            if self.identities.get(&identity) == Some(labels) {
                continue;
            }
            self.identities.insert(identity, labels.clone());
            let in_cluster = labels.namespace().is_some();
            let cluster_name = if in_cluster { self.cluster_name.clone() } else { String::new() };
            changes.push(Change::UpsertIdentity { identity, labels: labels.clone(), cluster_name });
        }
    }
}

fn flow_origin(origin: &Origin) -> PolicyOrigin {
    PolicyOrigin {
        kind: origin.kind.as_str().to_owned(),
        namespace: origin.namespace.clone(),
        name: origin.name.clone(),
        uid: origin.uid.clone(),
        section: origin.section.as_str().to_owned(),
        rule_index: origin.rule_index,
        labels: origin.labels.clone(),
        revision: origin.revision,
        log: origin.log.clone(),
    }
}
