//! What the admin API and the metrics show.

mod policies;
mod redirects;
mod status;

use std::collections::BTreeMap;
use std::net::IpAddr;

use specola_datapath::abi::endpoint::HOST_SLOT;
use specola_datapath::abi::event::lane;
use specola_datapath::abi::policy::PolicyValue;
use specola_datapath::{ConnectionCounts, FoldBook, LaneBook, PacketCounts};
use specola_policy::{Key, Origin, OriginSet, SubjectId};
use specola_proto::specola::v1 as pb;

use super::Node;
use super::entries;
use super::life::{Endpoint, Realized};
use crate::desired::Refused;
use crate::endpoint::State;

/// How an endpoint is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Id(u32),
    Pod { namespace: String, name: String },
    Ip(IpAddr),
}

/// The kernel's counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelCounts {
    pub(crate) packets: Vec<PacketCounts>,
    pub(crate) lanes: Vec<LaneBook>,
    pub(crate) folds: FoldBook,
    pub(crate) connections: ConnectionCounts,
}

impl Node {
    /// Every endpoint.
    pub(crate) fn show_endpoints(&self) -> Vec<pb::Endpoint> {
        let pods = self.endpoints.values().map(|endpoint| self.show(endpoint));
        pods.chain(self.show_host().map(|(shown, _)| shown)).collect()
    }

    /// An endpoint by id.
    pub(crate) fn show_id(&self, id: u16) -> Option<pb::Endpoint> {
        self.endpoints.get(&id).map(|endpoint| self.show(endpoint))
    }

    /// An endpoint with its realized policy.
    pub(crate) fn show_endpoint(&self, wanted: &Wanted) -> Option<pb::GetEndpointResponse> {
        if let Some((shown, policy)) = self.show_host()
            && matches!(wanted, Wanted::Id(id) if *id == shown.id)
        {
            let selected = self.host_realized();
            return Some(self.with_policy(shown, HOST_SLOT, policy, selected));
        }
        let endpoint = self.endpoints.values().find(|endpoint| match wanted {
            Wanted::Id(id) => u32::from(endpoint.file.id) == *id,
            Wanted::Pod { namespace, name } => {
                endpoint.file.pod_namespace == *namespace && endpoint.file.pod_name == *name
            }
            Wanted::Ip(ip) => endpoint.file.addresses.iter().any(|address| address == *ip),
        })?;
        let shown = self.show(endpoint);
        let selected = self.realized_revision(endpoint);
        Some(self.with_policy(shown, endpoint.file.slot, endpoint.realized.as_ref(), selected))
    }

    fn with_policy(
        &self,
        shown: pb::Endpoint,
        slot: u16,
        policy: Option<&Realized>,
        selected: Option<(SubjectId, u64)>,
    ) -> pb::GetEndpointResponse {
        let mut response = pb::GetEndpointResponse { endpoint: Some(shown), ..Default::default() };
        if let Some((subject, revision)) = selected {
            response.policies = self.show_applied(subject, revision);
            response.redirects = self.show_redirects(subject);
        }
        if let Some(policy) = policy {
            response.policy = self.show_entries(slot);
            let show = |names: &Option<OriginSet>| names.as_ref().map(show_origins).unwrap_or_default();
            let [ingress, egress] = &policy.closed_by;
            (response.ingress_selected_by, response.egress_selected_by) = (show(ingress), show(egress));
        }
        response
    }

    /// The node's part of the status, and what became of folded packets.
    pub(crate) fn show_status(&self) -> (pb::GetStatusResponse, FoldBook) {
        let ready = self.endpoints.values().filter(|endpoint| endpoint.state == State::Ready).count();
        let mut warnings = self.warnings.list();
        warnings.extend(self.desired.warnings.iter().cloned());
        warnings.extend(self.open_denies());
        warnings.extend(self.contents.refused.iter().map(|cause| format!("store: {cause}")));
        let counts = self.kernel_counts().unwrap_or_else(|error| {
            warnings.push(format!("counters: {error:#}"));
            KernelCounts::default()
        });
        let status = pb::GetStatusResponse {
            node_name: self.settings.node_name.clone(),
            cluster_name: self.settings.cluster_name.clone(),
            policy_revision: self.engine.repository().revision(),
            endpoints_total: number(self.endpoints.len()),
            endpoints_ready: number(ready),
            identities: number(self.engine.identities().len()),
            policies: number(self.engine.repository().len()),
            refused: self.desired.refused.iter().map(show_refused).collect(),
            attach_mode: self.kernel.attach_mode().to_owned(),
            drops: show_packets(&counts.packets),
            lanes: counts.lanes.iter().enumerate().map(show_lane).collect(),
            connections: Some(show_connections(&counts.connections)),
            ipcache_entries: number(self.ips.len()),
            warnings,
            ..Default::default()
        };
        (status, counts.folds)
    }

    /// The kernel's counters.
    pub(crate) fn kernel_counts(&self) -> anyhow::Result<KernelCounts> {
        Ok(KernelCounts {
            packets: self.kernel.packet_counts()?,
            lanes: self.kernel.lane_books()?,
            folds: self.kernel.fold_book()?,
            connections: self.kernel.connection_counts()?,
        })
    }

    fn show(&self, endpoint: &Endpoint) -> pb::Endpoint {
        let file = &endpoint.file;
        let policy = endpoint.realized.as_ref();
        pb::Endpoint {
            id: file.id.into(),
            state: show_state(endpoint.state).into(),
            pod: Some(pb::PodRef { namespace: file.pod_namespace.clone(), name: file.pod_name.clone() }),
            container_id: file.key.container_id.clone(),
            identity: file.identity,
            labels: endpoint.labels.to_strings(),
            ips: file.addresses.iter().map(|address| address.to_string()).collect(),
            mac: show_mac(file.mac),
            host_ifname: file.host_ifname.clone(),
            slot: file.slot.into(),
            policy_revision: policy.map_or(0, |policy| self.newest_revision(endpoint.subject, policy)),
            ingress_enforced: policy.is_some_and(|policy| policy.enforces(false)),
            egress_enforced: policy.is_some_and(|policy| policy.enforces(true)),
            conditions: endpoint.conditions.iter().cloned().collect(),
            policy_entries: policy.map_or(0, |policy| number(policy.entries)),
            node: self.settings.node_name.clone(),
            named_ports: self.show_own_ports(endpoint),
            audit: policy.is_some_and(|policy| policy.audit),
            policy_status: self.policy_status(endpoint).into(),
            policy_entries_max: number(self.settings.policy.max_entries),
        }
    }

    /// What the kernel has for an endpoint, with the names behind the cookies.
    fn show_entries(&self, slot: u16) -> Vec<pb::PolicyEntry> {
        let policy = self.kernel.policy(slot);
        let mut entries: Vec<(Key, PolicyValue)> =
            policy.iter().map(|(key, value)| (entries::engine_key(key), *value)).collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        entries.iter().map(|(key, value)| self.show_entry(key, value)).collect()
    }

    fn show_entry(&self, key: &Key, value: &PolicyValue) -> pb::PolicyEntry {
        let action = match (value.is_deny(), value.proxy_port_be != 0) {
            (true, _) => "deny",
            (false, true) => "redirect",
            (false, false) => "allow",
        };
        let (first, last) = key.ports();
        let (precedence, cookie) = (value.precedence, value.cookie);
        pb::PolicyEntry {
            direction: if key.egress { "egress" } else { "ingress" }.to_owned(),
            identity: key.identity,
            protocol: key.proto.into(),
            first_port: first.into(),
            last_port: last.into(),
            action: action.to_owned(),
            precedence,
            cookie,
            origins: self.cookies.origins(cookie).map(show_origins).unwrap_or_default(),
        }
    }
}

/// MAC address as text.
pub(crate) fn show_mac(mac: crate::net::Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Name of a lane.
pub(crate) fn lane_name(index: usize) -> &'static str {
    const DENY: usize = lane::DENY as usize;
    const ALLOW: usize = lane::ALLOW as usize;
    match index {
        DENY => "deny",
        ALLOW => "allow",
        _ => "trace",
    }
}

/// Name of a direction of the kernel's counters.
pub(crate) fn direction_name(direction: u8) -> &'static str {
    match direction {
        specola_datapath::abi::direction::INGRESS => "ingress",
        specola_datapath::abi::direction::EGRESS => "egress",
        _ => "unknown",
    }
}

fn show_state(state: State) -> pb::EndpointState {
    match state {
        State::Creating => pb::EndpointState::Creating,
        State::WaitingForIdentity => pb::EndpointState::WaitingForIdentity,
        State::NotReady => pb::EndpointState::NotReady,
        State::WaitingToRegenerate => pb::EndpointState::WaitingToRegenerate,
        State::Regenerating => pb::EndpointState::Regenerating,
        State::Ready => pb::EndpointState::Ready,
        State::Disconnecting => pb::EndpointState::Disconnecting,
        State::Disconnected => pb::EndpointState::Disconnected,
        State::Restoring => pb::EndpointState::Restoring,
        State::Invalid => pb::EndpointState::Invalid,
    }
}

pub(crate) fn show_origins(origins: &OriginSet) -> Vec<pb::PolicyOrigin> {
    origins.iter().map(show_origin).collect()
}

fn show_origin(origin: &Origin) -> pb::PolicyOrigin {
    pb::PolicyOrigin {
        kind: origin.kind.as_str().to_owned(),
        namespace: origin.namespace.clone(),
        name: origin.name.clone(),
        uid: origin.uid.clone(),
        rule_index: origin.rule_index,
        section: origin.section.as_str().to_owned(),
        labels: origin.labels.clone(),
        revision: origin.revision,
        log: origin.log.clone(),
    }
}

pub(super) fn show_refused(refused: &Refused) -> pb::RefusedDocument {
    pb::RefusedDocument {
        source: format!("{}:{}", refused.file, refused.line),
        errors: refused.errors.clone(),
        object: refused.object.clone(),
    }
}

fn show_packets(packets: &[PacketCounts]) -> Vec<pb::DropCount> {
    let mut sums: BTreeMap<(u8, u8), (u64, u64)> = BTreeMap::new();
    for count in packets {
        let sum = sums.entry((count.direction, count.reason)).or_default();
        *sum = (sum.0 + count.packets, sum.1 + count.bytes);
    }
    let show = |((direction, reason), (packets, bytes)): ((u8, u8), (u64, u64))| pb::DropCount {
        direction: direction_name(direction).to_owned(),
        reason: reason.into(),
        packets,
        bytes,
    };
    sums.into_iter().map(show).collect()
}

fn show_lane((index, book): (usize, &LaneBook)) -> pb::LaneStatus {
    let count = &book.counts;
    pb::LaneStatus {
        name: lane_name(index).to_owned(),
        attempts: count.attempts,
        submitted: count.submitted,
        reserve_failed: count.reserve_failed,
        folded: count.folded,
        taken: book.taken,
        waiting: book.backlog,
        balanced: book.is_balanced,
    }
}

fn show_connections(counts: &ConnectionCounts) -> pb::ConnectionCounts {
    pb::ConnectionCounts {
        created: counts.created,
        removed: counts.removed,
        present: counts.present,
        evicted: counts.evicted,
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
