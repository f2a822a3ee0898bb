//! The node itself as an endpoint: its policy, its name, its devices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use specola_datapath::abi::endpoint::{EndpointRecord, HOST_SLOT, policy_flags};
use specola_flow::EndpointMeta;
use specola_labels::{Label, LabelSet, NumericIdentity, source};
use specola_policy::{Subject, SubjectId, SubjectPolicy};
use specola_proto::specola::v1 as pb;

use super::life::Realized;
use super::{Node, NodeDevices, entries};

/// How the node itself is looked after.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostSettings {
    /// Would-be denies pass and are marked.
    pub(crate) audit: bool,
    /// Labels besides those of the Node object, by which policies select the node.
    pub(crate) labels: BTreeMap<String, String>,
}

/// The node as an endpoint.
#[derive(Debug, Default)]
pub(super) struct HostEndpoint {
    /// The engine's number for it, and the labels that it was made from.
    subject: Option<(SubjectId, LabelSet)>,
    /// The kernel's record is made.
    is_recorded: bool,
    /// The policy that the kernel has; none before the first, and after a restart.
    realized: Option<Realized>,
    /// Policies govern the node.
    is_governed: bool,
}

impl Node {
    /// The slot that the node itself has.
    pub(super) fn host_slot(&self) -> Option<u16> {
        self.host.as_ref().map(|_| HOST_SLOT)
    }

    /// Tells the engine who the node is.
    pub(super) fn follow_host(&mut self) {
        let labels = self.host_labels();
        let Some(host) = &mut self.host else { return };
        if host.subject.as_ref().is_some_and(|(_, known)| *known == labels) {
            return;
        }
        let subject = Subject { labels: labels.clone(), is_host: true, ..Subject::default() };
        let subject = self.engine.add_subject(subject);
        if let Some((old, _)) = host.subject.replace((subject, labels)) {
            self.engine.drop_subject(old);
        }
    }

    /// Writes what changed of the node's own policy. Returns whether the kernel has all of it. What cannot be written
    /// leaves the kernel what it has; at first that is no policy.
    pub(super) fn realize_host(&mut self) -> bool {
        if self.host.is_none() {
            return true;
        }
        let result = self.update_host();
        let is_complete = result.is_ok();
        self.retry |= !is_complete;
        let revision = self.engine.repository().revision();
        let warning = result
            .err()
            .map(|error| format!("policy revision {revision} of the node is not realized: {error:#}"));
        self.warnings.set("host policy", warning);
        is_complete
    }

    fn update_host(&mut self) -> anyhow::Result<()> {
        let Some(host) = &mut self.host else { return Ok(()) };
        if !host.is_recorded {
            self.kernel.add_endpoint(HOST_SLOT, &record())?;
            host.is_recorded = true;
        }
        let Some((subject, _)) = host.subject else { return Ok(()) };
        let made = (subject, self.engine.version(subject));
        let in_force = host.realized.as_ref().and_then(|realized| realized.made_from);
        if in_force == Some(made) {
            return Ok(());
        }
        let Some(policy) = self.engine.policy(subject) else { return Ok(()) };
        let policy = policy.map_err(Clone::clone)?;
        let diff = match in_force {
            Some((known, version)) if known == subject => policy.diff_from(version),
            _ => None,
        };
        let is_governed = governs(policy);
        let audit = self.settings.audit_mode || self.settings.host.as_ref().is_some_and(|host| host.audit);
        let (realized, kernel) = (Realized::of(subject, policy, audit), &self.kernel);
        let in_kernel = || kernel.policy(HOST_SLOT);
        let mut step = entries::follow(HOST_SLOT, diff, in_kernel, policy, realized, &mut self.cookies)?;
        if is_governed {
            step.update.state.flags |= policy_flags::ENFORCED;
        }
        self.publish_cookies()?;
        for result in self.kernel.apply_policies(&[step.update]) {
            result?;
        }
        let Some(host) = &mut self.host else { return Ok(()) };
        if host.is_governed != is_governed {
            let revision = step.realized.revision;
            tracing::info!(revision, is_governed, "whether policies govern the node itself changed");
        }
        (host.is_governed, host.realized) = (is_governed, Some(step.realized));
        self.seen.unpublished = true;
        Ok(())
    }

    /// What policies select the node by: its reserved label, the labels of its Node object, those of the settings.
    fn host_labels(&self) -> LabelSet {
        let object = self.desired.nodes.get(&self.settings.node_name);
        let of_object = object.into_iter().flat_map(|node| &node.metadata.labels);
        let of_settings = self.settings.host.iter().flat_map(|host| &host.labels);
        let labels = of_object.chain(of_settings).map(|(key, value)| Label::new(source::NODE, key, value));
        labels.chain([Label::reserved("host")]).collect()
    }

    /// The node's name in flows, with its addresses.
    pub(super) fn host_meta(&self) -> Option<(u16, (EndpointMeta, Vec<IpAddr>))> {
        self.host.as_ref()?;
        let meta = EndpointMeta {
            id: ID,
            identity: NumericIdentity::HOST,
            labels: self.host_labels(),
            cluster_name: self.settings.cluster_name.clone(),
            ..EndpointMeta::default()
        };
        Some((ID, (meta, self.addresses.all.clone())))
    }

    /// The node for the admin API, with its policy.
    pub(super) fn show_host(&self) -> Option<(pb::Endpoint, Option<&Realized>)> {
        let policy = self.host.as_ref()?.realized.as_ref();
        let entries = policy.map_or(0, |policy| policy.entries);
        let state = if policy.is_some() { pb::EndpointState::Ready } else { pb::EndpointState::NotReady };
        let shown = pb::Endpoint {
            id: ID.into(),
            state: state.into(),
            identity: NumericIdentity::HOST.0,
            labels: self.host_labels().to_strings(),
            ips: self.addresses.all.iter().map(ToString::to_string).collect(),
            slot: HOST_SLOT.into(),
            policy_revision: self.host_realized().map_or(0, |(_, revision)| revision),
            ingress_enforced: policy.is_some_and(|policy| policy.enforces(false)),
            egress_enforced: policy.is_some_and(|policy| policy.enforces(true)),
            policy_entries: u32::try_from(entries).unwrap_or(u32::MAX),
            node: self.settings.node_name.clone(),
            audit: policy.is_some_and(|policy| policy.audit),
            policy_status: self.host_policy_status().into(),
            policy_entries_max: u32::try_from(self.settings.policy.max_entries).unwrap_or(u32::MAX),
            ..pb::Endpoint::default()
        };
        Some((shown, policy))
    }

    /// The engine's number for the node itself, and the policy that the kernel has for it.
    pub(super) fn host_policy(&self) -> Option<(SubjectId, Option<&Realized>)> {
        let host = self.host.as_ref()?;
        Some((host.subject.as_ref()?.0, host.realized.as_ref()))
    }

    /// Devices that have programs, also those that are gone.
    pub(crate) fn attached_devices(&self) -> anyhow::Result<Vec<u32>> {
        self.kernel.attached()
    }

    /// Attaches the programs to these devices of the network and to no others.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub(crate) fn set_devices(&mut self, wanted: Vec<(u32, String)>) -> anyhow::Result<()> {
        let network: Vec<u32> = wanted.iter().map(|(ifindex, _)| *ifindex).collect();
        let is_pods = |ifindex: &u32| self.endpoints.values().any(|endpoint| endpoint.ifindex == *ifindex);
        let host = self.settings.devices.host;
        let attached = self.kernel.attached()?;
        let stale = attached
            .into_iter()
            .filter(|ifindex| *ifindex != host && !network.contains(ifindex) && !is_pods(ifindex));
        for ifindex in stale.collect::<Vec<_>>() {
            self.kernel.detach(ifindex)?;
            self.feed.no_interface(ifindex)?;
        }
        for (ifindex, name) in &wanted {
            self.feed.interface(*ifindex, name)?;
        }
        self.settings.devices = NodeDevices { host, network };
        self.kernel.attach_node(&self.settings.devices)
    }

    /// The highest cookie that any policy entry can have now.
    pub(crate) fn highest_cookie(&self) -> u32 {
        self.cookies.highest()
    }
}

/// Whether a policy can do anything but let pass: it closes a direction, or has an entry besides those that allow all.
fn governs(policy: SubjectPolicy<'_>) -> bool {
    let is_closed = [false, true].into_iter().any(|egress| policy.closed_by(egress).is_some());
    is_closed || policy.map().iter().any(|(key, entry)| entry.deny || key.identity != 0 || key.proto != 0)
}

fn record() -> EndpointRecord {
    EndpointRecord { id: ID, identity: NumericIdentity::HOST.0, ..EndpointRecord::default() }
}

/// Endpoint id of the node itself.
pub(super) const ID: u16 = u16::MAX;
