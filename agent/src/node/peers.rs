//! Other nodes: which identity each has.
//!
//! Without node selectors in the language they are all one identity, but for those that run the API server. With them
//! each set of labels has one of its own, of this node's numbers. A node says its labels itself, in its CiliumNode
//! object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use anyhow::Context;
use ipnet::IpNet;
use specola_datapath::abi::ipcache::IpInfo;
use specola_labels::{Label, LabelSet, NumericIdentity, Scope, source};

use super::Node;
use super::names::API_SERVER;
use crate::store::CiliumNode;

impl Node {
    /// Gives the labels of other nodes identities. Those that no node has any more stay in the policies until no address
    /// has them.
    pub(super) fn learn_nodes(&mut self) {
        let result = self.number_nodes().context("labels of other nodes");
        self.note_as("nodes", result);
    }

    fn number_nodes(&mut self) -> anyhow::Result<()> {
        let known: BTreeSet<NumericIdentity> = self
            .engine
            .identities()
            .iter_from(NumericIdentity::REMOTE_NODE_MIN)
            .map(|(identity, _)| identity)
            .take_while(|identity| identity.scope() == Scope::RemoteNode)
            .collect();
        let own = [Label::reserved("host")].into_iter().chain(self.api_server_label(&self.addresses.all));
        let own: LabelSet = own.collect();
        let is_new = self.engine.insert_identity(NumericIdentity::HOST, own);
        self.note_identity(NumericIdentity::HOST, is_new);
        let by_name = self.labels_of_peers();
        // Those without labels of their own are reserved identities.
        let reserved = [NumericIdentity::REMOTE_NODE, NumericIdentity::KUBE_APISERVER];
        let mut numbers: BTreeMap<LabelSet, NumericIdentity> = reserved
            .into_iter()
            .filter_map(|identity| Some((identity.reserved_labels()?, identity)))
            .collect();
        let wanted = by_name.values().filter(|labels| !numbers.contains_key(*labels)).cloned().collect();
        for (labels, identity) in self.local_identities.set_nodes(&wanted, &known)? {
            let is_new = self.engine.insert_identity(identity, labels.clone());
            self.note_identity(identity, is_new);
            numbers.insert(labels, identity);
        }
        let in_use: BTreeSet<NumericIdentity> = numbers.values().copied().collect();
        self.leaving.retain(|identity| !in_use.contains(identity));
        self.leaving.extend(known.difference(&in_use));
        let number = |(name, labels): (String, LabelSet)| Some((name, *numbers.get(&labels)?));
        self.peers = by_name.into_iter().filter_map(number).collect();
        Ok(())
    }

    fn labels_of_peers(&self) -> BTreeMap<String, LabelSet> {
        let peers = self.contents.nodes.iter().filter(|peer| peer.metadata.name != self.settings.node_name);
        let labels = |peer: &CiliumNode| {
            let addresses: Vec<IpAddr> = peer.spec.addresses.iter().map(|address| address.ip).collect();
            let reserved =
                [Label::reserved("remote-node")].into_iter().chain(self.api_server_label(&addresses));
            let own = peer.metadata.labels.iter().filter(|_| self.settings.language.node_selector_labels);
            own.map(|(key, value)| Label::new(source::NODE, key, value)).chain(reserved).collect()
        };
        peers.map(|peer| (peer.metadata.name.clone(), labels(peer))).collect()
    }

    /// The label of nodes that run the API server.
    fn api_server_label(&self, addresses: &[IpAddr]) -> Option<Label> {
        let is_one = self.desired.api_servers().iter().any(|address| addresses.contains(address));
        is_one.then(|| Label::reserved(API_SERVER))
    }

    /// The identity of another node.
    pub(super) fn peer_identity(&self, name: &str) -> NumericIdentity {
        self.peers.get(name).copied().unwrap_or(NumericIdentity::REMOTE_NODE)
    }

    /// Puts the identities of other nodes in the place of the one that stands for all of them.
    pub(super) fn name_peers(&self, wanted: &mut HashMap<IpNet, IpInfo>) {
        for peer in self.contents.nodes.iter() {
            let Some(identity) = self.peers.get(&peer.metadata.name) else { continue };
            for address in &peer.spec.addresses {
                if let Some(info) = wanted.get_mut(&IpNet::from(address.ip))
                    && info.identity == NumericIdentity::REMOTE_NODE.0
                {
                    info.identity = identity.0;
                }
            }
        }
    }

    /// What this node says of itself to others: the labels of its Node object, and those of the settings.
    pub(super) fn own_labels(&self) -> BTreeMap<String, String> {
        let object = self.desired.nodes.get(&self.settings.node_name);
        let mut labels = object.map(|node| node.metadata.labels.clone()).unwrap_or_default();
        labels.extend(self.settings.node_labels.clone());
        labels
    }
}
