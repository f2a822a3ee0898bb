//! The ipcache: addresses and prefixes with their identities.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use serde::Serialize;
use specola_datapath::abi::ipcache::{IpInfo, ip_flags};
use specola_datapath::abi::names;

use super::{Dump, NamedIdentity, NodeView};

/// One address or prefix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddressRow {
    /// The address (with its full length) or prefix.
    pub prefix: IpNet,
    /// Its security identity.
    pub identity: NamedIdentity,
    /// Endpoint id, when it is a pod of this node.
    pub endpoint: Option<u16>,
    /// `namespace/name` of that pod, if known.
    pub pod: Option<String>,
    /// Node that hosts it, when that is another one.
    pub node: Option<Ipv4Addr>,
    /// Whether it is an address of this node itself.
    pub local_node: bool,
}

impl NodeView {
    /// The addresses and prefixes, sorted.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn addresses(&self) -> anyhow::Result<Dump<AddressRow>> {
        let endpoints = self.pinned.endpoints()?;
        let ips = self.pinned.ips()?;
        let row = |(prefix, info): (&IpNet, &IpInfo)| {
            let endpoint = endpoints.iter().find(|(slot, _)| info.slot != 0 && *slot == info.slot);
            let endpoint = endpoint.map(|(_, record)| record.id);
            AddressRow {
                prefix: *prefix,
                identity: self.names.identity(info.identity),
                endpoint,
                pod: endpoint.and_then(|id| self.names.pod(id)),
                node: Some(Ipv4Addr::from(info.node_ipv4)).filter(|node| !node.is_unspecified()),
                local_node: info.flags & ip_flags::LOCAL_NODE != 0,
            }
        };
        let mut entries: Vec<_> = ips.iter().map(row).collect();
        entries.sort_by_key(|row| row.prefix);
        let is_whole = |row: &&AddressRow| row.prefix.prefix_len() == row.prefix.max_prefix_len();
        let whole = entries.iter().filter(is_whole).count();
        let maps =
            vec![self.fill(names::IPCACHE, whole)?, self.fill(names::IPCACHE_LPM, entries.len() - whole)?];
        Ok(Dump { entries, maps })
    }
}
