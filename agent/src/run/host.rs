//! The node's own network: host device, addresses, programs.

use anyhow::Context;
use ipnet::IpNet;
use specola_datapath::{Config as DatapathConfig, Datapath};
use specola_policy::{IpFamilies, Settings};

use crate::config::AgentConfig;
use crate::desired::Node as NodeObject;
use crate::ipam::Ipam;
use crate::net::{HostDevice, Net};
use crate::node::{Kernel, NodeDevices, NodeSettings};

/// Makes the host device and finds out what the node is.
pub(super) async fn build_network(
    config: &AgentConfig,
    node: &NodeObject,
    ipam: &Ipam,
    net: &Net,
) -> anyhow::Result<(NodeSettings, HostDevice)> {
    let cidrs: Vec<IpNet> = ipam.cidrs().collect();
    let host = net
        .ensure_host_device(ipam.routers(), &cidrs, &config.devices, config.mtu)
        .await
        .context("setting up the host device")?;
    let policy = Settings {
        cluster_name: config.cluster_name.clone(),
        mode: config.policy_mode.into(),
        ip_families: families(&cidrs),
        ..Settings::default()
    };
    let settings = NodeSettings {
        node_name: config.node_name.clone(),
        cluster_name: config.cluster_name.clone(),
        policy,
        overflow: config.policy_overflow,
        audit_mode: config.policy_audit_mode,
        internal_ips: node.internal_ips(),
        local_ips: net.local_addresses().await?,
        mtu: config.mtu,
        devices: NodeDevices::default(),
        endpoints_dir: super::endpoints_dir(config),
    };
    Ok((settings, host))
}

fn families(cidrs: &[IpNet]) -> IpFamilies {
    let has = |ipv4: bool| cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == ipv4);
    match (has(true), has(false)) {
        (true, false) => IpFamilies::V4,
        (false, true) => IpFamilies::V6,
        _ => IpFamilies::Dual,
    }
}

/// Loads the programs and hooks those that belong to the node, unless an earlier build's are to run on until policies
/// are realized.
pub(super) async fn build_datapath(
    config: &AgentConfig,
    net: &Net,
    settings: &mut NodeSettings,
    host: HostDevice,
) -> anyhow::Result<Datapath> {
    if config.devices.is_empty() {
        tracing::warn!("no --device: packets from the network for pods are judged on the host device only");
    }
    let mut devices = NodeDevices { host: host.ifindex, network: Vec::new() };
    for name in &config.devices {
        devices.network.push(net.ifindex(name).await?);
    }
    settings.devices = devices.clone();
    let mut wanted = DatapathConfig::new(&config.pin_dir);
    wanted.attach = config.attach.into();
    wanted.trace_interval_ms = config.trace_interval_ms;
    wanted.fold_per_second = config.fold_per_second;
    wanted.ct_tcp_entries = config.conntrack_tcp_entries;
    wanted.ct_any_entries = config.conntrack_other_entries;
    wanted.host_ifindex = host.ifindex;
    wanted.host_mac = host.mac;
    wanted.dual_stack = settings.policy.ip_families == IpFamilies::Dual;
    let load = move || -> anyhow::Result<Datapath> {
        let mut datapath = Datapath::load(&wanted).context("loading the datapath")?;
        for map in datapath.recreated() {
            tracing::warn!(?map, "a pinned map had another layout and is made anew");
        }
        if !datapath.has_old_maps()? {
            Kernel::attach_node(&mut datapath, &devices)?;
        }
        Ok(datapath)
    };
    tokio::task::spawn_blocking(load).await?
}
