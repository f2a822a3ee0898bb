//! The endpoint table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use specola_datapath::abi::endpoint::{EndpointRecord, MAX_SLOTS, policy_flags};
use specola_datapath::abi::names;

use super::{Dump, Fill, NamedCookie, NamedIdentity, NodeView, count};
use crate::net::devices_in;

/// One endpoint as the kernel programs know it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointRow {
    /// Index in the table.
    pub slot: u16,
    /// Endpoint id.
    pub endpoint: u16,
    /// `namespace/name` of its pod, if known.
    pub pod: Option<String>,
    /// Its security identity.
    pub identity: NamedIdentity,
    /// Host-side interface.
    pub ifindex: u32,
    /// Name of that interface; absent when there is none of that number.
    pub interface: Option<String>,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
    /// MAC address of the pod's interface.
    pub mac: String,
    /// MAC address of the host-side interface.
    pub host_mac: String,
    /// Whether a policy is realized; without one all packets drop.
    pub ready: bool,
    /// Whether denies only count as audited.
    pub audit: bool,
    /// Realized policy revision.
    pub revision: u32,
    /// Policy epoch: cached verdicts of another one are decided anew.
    pub epoch: u32,
    /// Which of the two tries is active: `a` or `b`.
    pub active: char,
    /// Entries of the active trie.
    pub entries: usize,
    /// Whether the other trie holds the same: it does but during an update.
    pub in_step: bool,
    /// Who drops packets that no ingress entry matches.
    pub default_ingress: NamedCookie,
    /// Who drops packets that no egress entry matches.
    pub default_egress: NamedCookie,
}

impl NodeView {
    /// The endpoints.
    ///
    /// # Errors
    /// A map cannot be read, or the network namespace cannot be entered.
    pub fn endpoints(&self) -> anyhow::Result<Dump<EndpointRow>> {
        let devices = devices_in(self.place.netns.as_deref())?;
        let mut rows = Vec::new();
        for (slot, record) in self.pinned.endpoints()? {
            let device = devices.iter().find(|(index, _)| *index == record.ifindex);
            rows.push(self.endpoint(slot, &record, device.map(|(_, name)| name.clone()))?);
        }
        // Slot 0 is never used.
        let table =
            Fill { map: names::ENDPOINTS.to_owned(), used: count(rows.len()), max: u64::from(MAX_SLOTS) - 1 };
        Ok(Dump { entries: rows, maps: vec![table] })
    }

    fn endpoint(
        &self,
        slot: u16,
        record: &EndpointRecord,
        interface: Option<String>,
    ) -> anyhow::Result<EndpointRow> {
        let side = EndpointRecord::active(record.word);
        let active = self.pinned.policy(slot, side)?;
        let state = record.policy[side as usize];
        Ok(EndpointRow {
            slot,
            endpoint: record.id,
            pod: self.names.pod(record.id),
            identity: self.names.identity(record.identity),
            ifindex: record.ifindex,
            interface,
            ips: addresses(record),
            mac: mac_text(record.mac),
            host_mac: mac_text(record.host_mac),
            ready: state.flags & policy_flags::READY != 0,
            audit: state.flags & policy_flags::AUDIT != 0,
            revision: state.revision,
            epoch: EndpointRecord::epoch(record.word),
            active: if side == 0 { 'a' } else { 'b' },
            entries: active.len(),
            in_step: self.pinned.policy(slot, 1 - side)? == active,
            default_ingress: self.names.cookie(state.default_cookie_ingress),
            default_egress: self.names.cookie(state.default_cookie_egress),
        })
    }
}

fn addresses(record: &EndpointRecord) -> Vec<IpAddr> {
    let ipv4 = IpAddr::from(Ipv4Addr::from(record.ipv4));
    let ipv6 = IpAddr::from(Ipv6Addr::from(record.ipv6));
    [ipv4, ipv6].into_iter().filter(|address| !address.is_unspecified()).collect()
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
