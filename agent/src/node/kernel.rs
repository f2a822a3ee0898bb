//! What the node needs of the datapath, so that its decisions can be tested without one.

use std::collections::HashMap;
use std::fmt;

use anyhow::Context;
use ipnet::IpNet;
use specola_datapath::abi::endpoint::EndpointRecord;
use specola_datapath::abi::ipcache::IpInfo;
use specola_datapath::abi::policy::{PolicyKey, PolicyValue};
use specola_datapath::{
    AttachMode, ConnectionCounts, Datapath, FoldBook, LaneBook, PacketCounts, PolicyUpdate,
};

/// Interfaces of the node itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeDevices {
    /// The device between pods and the host's stack; 0 = there is none.
    pub(crate) host: u32,
    /// Devices to the network.
    pub(crate) network: Vec<u32>,
}

/// The kernel side of the node. Calls block; errors say cause and remedy.
pub(crate) trait Kernel: fmt::Debug + Send {
    /// Hooks the programs to the host side of a pod's link.
    fn attach_endpoint(&mut self, ifindex: u32) -> anyhow::Result<()>;
    /// Unhooks an interface, which may be gone.
    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()>;
    /// Interfaces that have programs, also those that are gone.
    fn attached(&self) -> anyhow::Result<Vec<u32>>;
    /// Adds an endpoint, or updates identity and MAC addresses of the one in the slot.
    fn add_endpoint(&mut self, slot: u16, record: &EndpointRecord) -> anyhow::Result<()>;
    /// Empties a slot.
    fn remove_endpoint(&mut self, slot: u16) -> anyhow::Result<()>;
    /// Endpoints in the table.
    fn endpoints(&self) -> Vec<(u16, EndpointRecord)>;
    /// Policy entries in force.
    fn policy(&self, slot: u16) -> HashMap<PolicyKey, PolicyValue>;
    /// Applies changes, one result for each; what fails leaves the old policy in force. On return packets follow them.
    fn apply_policies(&mut self, updates: &[PolicyUpdate]) -> Vec<anyhow::Result<()>>;
    /// Does what of that can wait, as far as its time has come. Never waits.
    fn finish_policies(&mut self);
    /// Waits until no packet that was on its way through the programs at the call is still in them: some milliseconds.
    fn wait_for_readers(&self);
    /// Whether there is something left to finish.
    fn has_unfinished_policies(&self) -> bool;
    /// What is known of addresses.
    fn ips(&self) -> anyhow::Result<HashMap<IpNet, IpInfo>>;
    /// Sets what is known of an address.
    fn upsert_ip(&mut self, prefix: IpNet, info: IpInfo) -> anyhow::Result<()>;
    /// Forgets an address.
    fn remove_ip(&mut self, prefix: IpNet) -> anyhow::Result<()>;
    /// Packets and bytes by direction and reason.
    fn packet_counts(&self) -> anyhow::Result<Vec<PacketCounts>>;
    /// What became of the records of each lane.
    fn lane_books(&self) -> anyhow::Result<Vec<LaneBook>>;
    /// What became of denied packets that were counted instead of written.
    fn fold_book(&self) -> anyhow::Result<FoldBook>;
    /// Connections that came and went.
    fn connection_counts(&self) -> anyhow::Result<ConnectionCounts>;
    /// Removes what another version of this program left and nothing uses any more. Gives names.
    fn remove_old_maps(&mut self) -> anyhow::Result<Vec<String>>;
    /// Whether interfaces may run programs of an earlier build, over maps of their own.
    fn has_old_maps(&self) -> anyhow::Result<bool>;
    /// Copies what the maps of earlier builds know of connections and this build's maps do not.
    fn migrate_connections(&mut self) -> anyhow::Result<()>;
    /// Hooks the programs to the interfaces of the node.
    fn attach_node(&mut self, devices: &NodeDevices) -> anyhow::Result<()>;
    /// How programs are hooked: `tcx` or `clsact`.
    fn attach_mode(&self) -> &'static str;
}

impl Kernel for Datapath {
    fn attach_endpoint(&mut self, ifindex: u32) -> anyhow::Result<()> {
        Ok(Self::attach_endpoint(self, ifindex)?)
    }

    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()> {
        Ok(Self::detach(self, ifindex)?)
    }

    fn attached(&self) -> anyhow::Result<Vec<u32>> {
        let mut interfaces: Vec<u32> = self.attachments()?.iter().map(|hook| hook.ifindex).collect();
        interfaces.sort_unstable();
        interfaces.dedup();
        Ok(interfaces)
    }

    fn add_endpoint(&mut self, slot: u16, record: &EndpointRecord) -> anyhow::Result<()> {
        Ok(Self::add_endpoint(self, slot, record)?)
    }

    fn remove_endpoint(&mut self, slot: u16) -> anyhow::Result<()> {
        Ok(Self::remove_endpoint(self, slot)?)
    }

    fn endpoints(&self) -> Vec<(u16, EndpointRecord)> {
        Self::endpoints(self)
    }

    fn policy(&self, slot: u16) -> HashMap<PolicyKey, PolicyValue> {
        Self::policy(self, slot).cloned().unwrap_or_default()
    }

    fn apply_policies(&mut self, updates: &[PolicyUpdate]) -> Vec<anyhow::Result<()>> {
        let results = self.start_policies(updates);
        results.into_iter().map(|result| Ok(result.map(|_epoch| ())?)).collect()
    }

    fn finish_policies(&mut self) {
        Self::finish_policies(self);
    }

    fn wait_for_readers(&self) {
        Self::wait_for_readers(self);
    }

    fn has_unfinished_policies(&self) -> bool {
        Self::has_unfinished_policies(self)
    }

    fn ips(&self) -> anyhow::Result<HashMap<IpNet, IpInfo>> {
        Ok(Self::ips(self)?)
    }

    fn upsert_ip(&mut self, prefix: IpNet, info: IpInfo) -> anyhow::Result<()> {
        Ok(Self::upsert_ip(self, prefix, info)?)
    }

    fn remove_ip(&mut self, prefix: IpNet) -> anyhow::Result<()> {
        Self::remove_ip(self, prefix)?;
        Ok(())
    }

    fn packet_counts(&self) -> anyhow::Result<Vec<PacketCounts>> {
        Ok(Self::packet_counts(self)?)
    }

    fn lane_books(&self) -> anyhow::Result<Vec<LaneBook>> {
        Ok(Self::lane_books(self)?.to_vec())
    }

    fn fold_book(&self) -> anyhow::Result<FoldBook> {
        Ok(Self::fold_book(self)?)
    }

    fn connection_counts(&self) -> anyhow::Result<ConnectionCounts> {
        Ok(Self::connection_counts(self)?)
    }

    fn remove_old_maps(&mut self) -> anyhow::Result<Vec<String>> {
        Ok(Self::remove_old_maps(self)?)
    }

    fn has_old_maps(&self) -> anyhow::Result<bool> {
        Ok(Self::has_old_maps(self)?)
    }

    fn migrate_connections(&mut self) -> anyhow::Result<()> {
        for map in Self::migrate_connections(self)? {
            if map.lost > 0 {
                tracing::warn!(map.pin, map.lost, "connections of an unknown layout are not taken over");
            } else {
                tracing::info!(map.pin, map.copied, "connections taken over");
            }
        }
        Ok(())
    }

    fn attach_node(&mut self, devices: &NodeDevices) -> anyhow::Result<()> {
        if devices.host != 0 {
            self.attach_host(devices.host).context("attaching to the host device")?;
        }
        for ifindex in &devices.network {
            self.attach_netdev(*ifindex).context("attaching to a node device")?;
        }
        Ok(())
    }

    fn attach_mode(&self) -> &'static str {
        match Self::attach_mode(self) {
            AttachMode::Clsact => "clsact",
            AttachMode::Auto | AttachMode::Tcx => "tcx",
        }
    }
}
