//! What the node tells about itself: Hubble's agent events.

use ipnet::IpNet;
use specola_datapath::abi::ipcache::IpInfo;
use specola_flow_server::AgentLog;
use specola_policy::PolicyObject;
use specola_proto::flow::{
    AgentEvent, AgentEventType as Kind, EndpointRegenNotification, EndpointUpdateNotification,
    IpCacheNotification, PolicyUpdateNotification, agent_event::Notification,
};

use super::life::Endpoint;

/// Tells; what nobody reads gives way to newer events.
#[derive(Clone, Debug)]
pub(super) struct Notices(AgentLog);

impl Notices {
    pub(super) const fn new(log: AgentLog) -> Self {
        Self(log)
    }

    pub(super) fn policy_updated(&self, object: &PolicyObject, revision: u64) {
        self.policy(Kind::PolicyUpdated, object, revision);
    }

    pub(super) fn policy_deleted(&self, object: &PolicyObject, revision: u64) {
        self.policy(Kind::PolicyDeleted, object, revision);
    }

    pub(super) fn endpoint_created(&self, endpoint: &Endpoint) {
        self.endpoint(Kind::EndpointCreated, endpoint);
    }

    pub(super) fn endpoint_deleted(&self, endpoint: &Endpoint) {
        self.endpoint(Kind::EndpointDeleted, endpoint);
    }

    pub(super) fn regenerated(&self, endpoint: &Endpoint) {
        self.regeneration(Kind::EndpointRegenerateSuccess, endpoint, String::new());
    }

    pub(super) fn regeneration_failed(&self, endpoint: &Endpoint, error: &anyhow::Error) {
        self.regeneration(Kind::EndpointRegenerateFailure, endpoint, format!("{error:#}"));
    }

    /// `pod` is namespace and name of the pod that has the address, if one has.
    pub(super) fn address_known(
        &self,
        prefix: IpNet,
        now: IpInfo,
        before: Option<IpInfo>,
        pod: Option<(String, String)>,
    ) {
        let (namespace, pod_name) = pod.unwrap_or_default();
        let notification = IpCacheNotification {
            cidr: prefix.to_string(),
            identity: now.identity,
            old_identity: before.map(|before| before.identity),
            namespace,
            pod_name,
            ..IpCacheNotification::default()
        };
        self.push(Kind::IpcacheUpserted, Notification::IpcacheUpdate(notification));
    }

    pub(super) fn address_forgotten(&self, prefix: IpNet, info: IpInfo) {
        let notification = IpCacheNotification {
            cidr: prefix.to_string(),
            identity: info.identity,
            ..IpCacheNotification::default()
        };
        self.push(Kind::IpcacheDeleted, Notification::IpcacheUpdate(notification));
    }

    fn policy(&self, kind: Kind, object: &PolicyObject, revision: u64) {
        let reference = &object.reference;
        let parts = [
            ("derived-from", reference.kind.as_str()),
            ("name", reference.name.as_str()),
            ("namespace", reference.namespace.as_str()),
            ("uid", object.uid.as_str()),
        ];
        let labels = parts.iter().filter(|(_, value)| !value.is_empty());
        let notification = PolicyUpdateNotification {
            labels: labels.map(|(key, value)| format!("k8s:io.cilium.k8s.policy.{key}={value}")).collect(),
            revision,
            rule_count: i64::try_from(object.rules.len()).unwrap_or(i64::MAX),
        };
        self.push(kind, Notification::PolicyUpdate(notification));
    }

    fn endpoint(&self, kind: Kind, endpoint: &Endpoint) {
        let notification = EndpointUpdateNotification {
            id: endpoint.file.id.into(),
            labels: endpoint.labels.to_strings(),
            pod_name: endpoint.file.pod_name.clone(),
            namespace: endpoint.file.pod_namespace.clone(),
            ..EndpointUpdateNotification::default()
        };
        self.push(kind, Notification::EndpointUpdate(notification));
    }

    fn regeneration(&self, kind: Kind, endpoint: &Endpoint, error: String) {
        let notification = EndpointRegenNotification {
            id: endpoint.file.id.into(),
            labels: endpoint.labels.to_strings(),
            error,
        };
        self.push(kind, Notification::EndpointRegenerate(notification));
    }

    fn push(&self, kind: Kind, notification: Notification) {
        self.0.push(AgentEvent { r#type: kind.into(), notification: Some(notification) });
    }
}
