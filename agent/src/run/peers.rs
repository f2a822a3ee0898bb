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
use crate::store::{CiliumNode, Contents};

/// Says that the agent started.
pub(super) fn started(log: &AgentLog) {
    let time = TimeNotification { time: Some(SystemTime::now().into()) };
    log.push(AgentEvent {
        r#type: AgentEventType::AgentStarted.into(),
        notification: Some(Notification::AgentStart(time)),
    });
}

/// Tells the flow server of the nodes in the store. All of a cluster serve on the same port, all with TLS or none.
pub(super) struct PeerFollower {
    cluster_name: String,
    port: u16,
    has_tls: bool,
    server: FlowServer,
    contents: watch::Receiver<Arc<Contents>>,
}

impl PeerFollower {
    pub(super) fn new(
        config: &AgentConfig,
        server: FlowServer,
        contents: watch::Receiver<Arc<Contents>>,
    ) -> Self {
        Self {
            cluster_name: config.cluster_name.clone(),
            port: config.observer_address().map_or(DEFAULT_PORT, |address| address.port()),
            has_tls: config.tls.files().is_some(),
            server,
            contents,
        }
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
        // IPv4 first, as Hubble does.
        let address = node.addresses("InternalIP").min_by_key(|address| address.is_ipv6());
        let peer = Peer {
            address: address.map(|ip| SocketAddr::new(ip, self.port).to_string()).unwrap_or_default(),
            server_name: self.has_tls.then(|| server_name(&name.name, &self.cluster_name)),
        };
        (name.absolute_name(), peer)
    }
}

/// The name in a node's certificate, as Hubble's relay expects it.
fn server_name(node: &str, cluster: &str) -> String {
    let cluster = if cluster.is_empty() { "default" } else { cluster };
    format!("{}.{}.hubble-grpc.cilium.io", node.replace('.', "-"), cluster.replace('.', "-"))
}

/// Port of the flow API where this node serves none on TCP.
const DEFAULT_PORT: u16 = 4244;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_dots_of_their_own() {
        assert_eq!(server_name("n1.eu", "a.b"), "n1-eu.a-b.hubble-grpc.cilium.io");
        assert_eq!(server_name("n1", ""), "n1.default.hubble-grpc.cilium.io");
    }
}
