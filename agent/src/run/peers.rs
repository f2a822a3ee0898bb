//! Who the cluster's nodes are, for clients that look for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use specola_flow::NodeInfo;
use specola_flow_server::{AgentLog, FlowServer, Peer, Peers};
use specola_lifecycle::Drain;
use specola_proto::flow::{AgentEvent, AgentEventType, TimeNotification, agent_event::Notification};
use tokio::sync::watch;

use crate::config::AgentConfig;
use crate::store::{CiliumNode, Contents, FlowApi};

/// Says that the agent started.
pub(super) fn started(log: &AgentLog) {
    let time = TimeNotification { time: Some(SystemTime::now().into()) };
    log.push(AgentEvent {
        r#type: AgentEventType::AgentStarted.into(),
        notification: Some(Notification::AgentStart(time)),
    });
}

/// Tells the flow server of the nodes in the store.
pub(super) struct PeerFollower {
    cluster_name: String,
    /// Taken for nodes that do not say where they serve flows: that they do as this one.
    own: FlowApi,
    server: FlowServer,
    contents: watch::Receiver<Arc<Contents>>,
}

impl PeerFollower {
    pub(super) fn new(
        config: &AgentConfig,
        server: FlowServer,
        contents: watch::Receiver<Arc<Contents>>,
    ) -> Self {
        Self { cluster_name: config.cluster_name.clone(), own: flow_api(config), server, contents }
    }

    pub(super) async fn run(mut self, drain: Drain) -> anyhow::Result<()> {
        loop {
            let contents = Arc::clone(&self.contents.borrow_and_update());
            self.server.set_peers(contents.nodes.iter().map(|node| self.peer(node)).collect::<Peers>());
            tokio::select! {
                biased;
                () = drain.signalled() => return Ok(()),
                changed = self.contents.changed() => if changed.is_err() {
                    // The store's follower ended; the drain is near.
                    drain.signalled().await;
                    return Ok(());
                },
            }
        }
    }

    fn peer(&self, node: &CiliumNode) -> (String, Peer) {
        let name = NodeInfo {
            name: node.metadata.name.clone(),
            cluster_name: self.cluster_name.clone(),
            ..NodeInfo::default()
        };
        peer_of(node, &self.own, &name)
    }
}

/// Where this node serves flows.
pub(super) fn flow_api(config: &AgentConfig) -> FlowApi {
    FlowApi {
        port: config.observer_address().map(|address| address.port()),
        server_name: config.tls.files().map(|_| server_name(&config.node_name, &config.cluster_name)),
    }
}

fn peer_of(node: &CiliumNode, own: &FlowApi, name: &NodeInfo) -> (String, Peer) {
    let (port, server_name) = match &node.spec.flow_api {
        Some(api) => (api.port, api.server_name.clone()),
        None => {
            let made = || server_name(&name.name, &name.cluster_name);
            (Some(own.port.unwrap_or(DEFAULT_PORT)), own.server_name.as_ref().map(|_| made()))
        }
    };
    // IPv4 first, as Hubble does.
    let ip = node.addresses("InternalIP").min_by_key(|address| address.is_ipv6());
    let address = ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port).to_string());
    (name.absolute_name(), Peer { address: address.unwrap_or_default(), server_name })
}

/// The name in a node's certificate, as Hubble's relay expects it.
fn server_name(node: &str, cluster: &str) -> String {
    let cluster = if cluster.is_empty() { "default" } else { cluster };
    format!("{}.{}.hubble-grpc.cilium.io", node.replace('.', "-"), cluster.replace('.', "-"))
}

/// Port of the flow API of a node that does not say, where this node serves none on TCP.
const DEFAULT_PORT: u16 = 4244;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NodeAddress, NodeSpec};

    #[test]
    fn each_node_says_where_it_serves() {
        let own = FlowApi { port: Some(4244), server_name: Some("n1.default.hubble-grpc.cilium.io".into()) };
        let plain = FlowApi { port: None, server_name: None };
        let other = FlowApi { port: Some(5000), server_name: None };
        let named = FlowApi { port: Some(5000), server_name: Some("x".into()) };
        let ip =
            |text: &str| NodeAddress { kind: "InternalIP".into(), ip: text.parse().expect("an address") };
        let both = vec![ip("fd00::2"), ip("10.0.0.2")];
        for (addresses, said, own, expected) in [
            (both.clone(), None, &own, ("10.0.0.2:4244", Some("n2.default.hubble-grpc.cilium.io"))),
            (both.clone(), None, &plain, ("10.0.0.2:4244", None)),
            (both.clone(), Some(other), &own, ("10.0.0.2:5000", None)),
            (vec![ip("fd00::2")], Some(named), &plain, ("[fd00::2]:5000", Some("x"))),
            // It serves none on TCP, or nobody knows its address.
            (both, Some(plain.clone()), &own, ("", None)),
            (vec![], None, &plain, ("", None)),
        ] {
            let spec = NodeSpec { addresses, flow_api: said, ..NodeSpec::default() };
            let name = NodeInfo { name: "n2".into(), ..NodeInfo::default() };
            let (found, peer) = peer_of(&CiliumNode::new("n2", spec), own, &name);
            assert_eq!(found, "n2");
            assert_eq!((peer.address.as_str(), peer.server_name.as_deref()), expected);
        }
    }

    #[test]
    fn names_have_no_dots_of_their_own() {
        assert_eq!(server_name("n1.eu", "a.b"), "n1-eu.a-b.hubble-grpc.cilium.io");
        assert_eq!(server_name("n1", ""), "n1.default.hubble-grpc.cilium.io");
    }
}
