//! The nodes of the cluster, as clients that look for them see them.

use std::{collections::BTreeMap, sync::Arc};

use specola_lifecycle::Drain;
use specola_proto::peer::{
    ChangeNotification, ChangeNotificationType, NotifyRequest, Tls, peer_server::Peer as PeerApi,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{observer::Answers, shared::FlowServer};

/// A node that serves flows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Peer {
    /// `ip` or `ip:port`; empty when the node has no address.
    pub address: String,
    /// Name in its certificate; `None` = plaintext.
    pub server_name: Option<String>,
}

/// Nodes by name (`cluster/node`, or the bare node in the default cluster).
pub type Peers = BTreeMap<String, Peer>;

/// Answers who the nodes are.
#[derive(Clone, Debug)]
pub struct PeerService {
    server: FlowServer,
    drain: Drain,
}

impl PeerService {
    /// A service whose streams end when `drain` is signalled.
    pub const fn new(server: FlowServer, drain: Drain) -> Self {
        Self { server, drain }
    }
}

#[tonic::async_trait]
impl PeerApi for PeerService {
    type NotifyStream = Answers<ChangeNotification>;

    async fn notify(&self, request: Request<NotifyRequest>) -> Result<Response<Self::NotifyStream>, Status> {
        self.server.admit(&request)?;
        let follower = Follower {
            peers: self.server.shared.peers.subscribe(),
            drain: self.drain.clone(),
            told: Arc::default(),
            pending: Vec::new(),
        };
        Ok(self.server.reply(Box::pin(futures::stream::unfold(follower, Follower::step))))
    }
}

/// One client. It holds what it was told; changes that it was too slow for are told as one.
struct Follower {
    peers: watch::Receiver<Arc<Peers>>,
    drain: Drain,
    told: Arc<Peers>,
    /// Newest first.
    pending: Vec<ChangeNotification>,
}

impl Follower {
    async fn step(mut self) -> Option<(Result<ChangeNotification, Status>, Self)> {
        loop {
            if let Some(change) = self.pending.pop() {
                return Some((Ok(change), self));
            }
            let now = Arc::clone(&self.peers.borrow_and_update());
            if now != self.told {
                self.pending = changes(&self.told, &now);
                self.pending.reverse();
                self.told = now;
                continue;
            }
            tokio::select! {
                biased;
                () = self.drain.signalled() => return None,
                changed = self.peers.changed() => changed.ok()?,
            }
        }
    }
}

/// What to tell a client that knows `old`: who left, who came, whose address is another.
fn changes(old: &Peers, new: &Peers) -> Vec<ChangeNotification> {
    let left = old.iter().filter(|(name, _)| !new.contains_key(*name));
    let left = left.map(|(name, peer)| notification(name, peer, ChangeNotificationType::PeerDeleted));
    let changed = new.iter().filter_map(|(name, peer)| match old.get(name) {
        None => Some(notification(name, peer, ChangeNotificationType::PeerAdded)),
        Some(before) if before == peer => None,
        Some(_) => Some(notification(name, peer, ChangeNotificationType::PeerUpdated)),
    });
    left.chain(changed).collect()
}

fn notification(name: &str, peer: &Peer, kind: ChangeNotificationType) -> ChangeNotification {
    ChangeNotification {
        name: name.to_owned(),
        address: peer.address.clone(),
        r#type: kind.into(),
        tls: peer.server_name.as_ref().map(|name| Tls { server_name: name.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_once() {
        let peer = |address: &str| Peer { address: address.into(), server_name: None };
        let peers = |list: &[(&str, &str)]| -> Peers {
            list.iter().map(|(name, address)| ((*name).to_owned(), peer(address))).collect()
        };
        for (old, new, expected) in [
            (peers(&[]), peers(&[]), vec![]),
            (peers(&[]), peers(&[("a", "1"), ("b", "2")]), vec![("a", "1", 1), ("b", "2", 1)]),
            (peers(&[("a", "1")]), peers(&[("a", "1")]), vec![]),
            (peers(&[("a", "1")]), peers(&[("a", "9")]), vec![("a", "9", 3)]),
            (peers(&[("a", "1")]), peers(&[("b", "1")]), vec![("a", "1", 2), ("b", "1", 1)]),
        ] {
            let told = changes(&old, &new);
            let told: Vec<_> = told.iter().map(|c| (c.name.as_str(), c.address.as_str(), c.r#type)).collect();
            assert_eq!(told, expected);
        }
    }
}
