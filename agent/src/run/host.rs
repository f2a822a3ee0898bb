//! The node's own network: host device, addresses, programs.

use std::path::Path;

use anyhow::Context;
use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use specola_datapath::probe::is_on_bpffs;
use specola_datapath::{Config as DatapathConfig, Datapath, HostMode, PinnedMaps};
use specola_lifecycle::Lifecycle;
use specola_policy::{IpFamilies, Settings};

use crate::config::AgentConfig;
use crate::desired::Node as NodeObject;
use crate::host::{DeviceFollower, Devices, HostPolicy, Seeder};
use crate::ipam::Ipam;
use crate::net::{AddressWatch, HostDevice, Net};
use crate::node::{HostSettings, Kernel, NodeDevices, NodeHandle, NodeSettings};
use crate::warnings::Warnings;

/// Makes the host device, where there are pods, and finds out what the node is.
pub(super) async fn build_network(
    config: &AgentConfig,
    node: &NodeObject,
    ipam: &Ipam,
    net: &Net,
) -> anyhow::Result<(NodeSettings, Option<HostDevice>)> {
    let cidrs: Vec<IpNet> = ipam.cidrs().collect();
    let host = if config.is_host_only() {
        None
    } else {
        let made = net.ensure_host_device(ipam.routers(), &cidrs, &config.devices, config.mtu).await;
        Some(made.context("setting up the host device")?)
    };
    let policy = Settings {
        cluster_name: config.cluster_name.clone(),
        mode: config.policy_mode.into(),
        ip_families: families(&cidrs),
        host_firewall: config.host_firewall,
        allow_localhost: config.language.allow_localhost.into(),
        ..Settings::default()
    };
    let settings = NodeSettings {
        node_name: config.node_name.clone(),
        cluster_name: config.cluster_name.clone(),
        policy,
        language: config.language.options(),
        overflow: config.policy_overflow,
        audit_mode: config.policy_audit_mode,
        node_labels: config.labels(),
        internal_ips: node.internal_ips(),
        local_ips: net.local_addresses().await?,
        mtu: config.mtu,
        devices: NodeDevices::default(),
        flow_api: super::peers::flow_api(config),
        endpoints_dir: super::endpoints_dir(config),
        host: config.has_host_endpoint().then(|| host_settings(config)),
    };
    Ok((settings, host))
}

fn host_settings(config: &AgentConfig) -> HostSettings {
    let mut labels = config.labels();
    labels.entry(HOST_NAME_LABEL.to_owned()).or_insert_with(|| config.node_name.clone());
    HostSettings { audit: config.host_audit, labels }
}

fn families(cidrs: &[IpNet]) -> IpFamilies {
    let has = |ipv4: bool| cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == ipv4);
    match (has(true), has(false)) {
        (true, false) => IpFamilies::V4,
        (false, true) => IpFamilies::V6,
        _ => IpFamilies::Dual,
    }
}

/// Loads the programs and, where there are pods, hooks those that belong to the node, unless an earlier build's are to
/// run on until policies are realized.
pub(super) async fn build_datapath(
    config: &AgentConfig,
    net: &Net,
    settings: &mut NodeSettings,
    host: Option<HostDevice>,
) -> anyhow::Result<Datapath> {
    if config.devices.is_empty() && !config.is_host_only() {
        tracing::warn!("no --device: packets from the network for pods are judged on the host device only");
    }
    let mut devices = NodeDevices { host: host.map_or(0, |host| host.ifindex), network: Vec::new() };
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
    wanted.host_ifindex = devices.host;
    wanted.host_mac = host.map(|host| host.mac).unwrap_or_default();
    wanted.dual_stack = settings.policy.ip_families == IpFamilies::Dual;
    wanted.host_mode = match (config.is_host_only(), config.has_host_endpoint()) {
        (true, _) => HostMode::Only,
        (false, true) => HostMode::WithPods,
        (false, false) => HostMode::Off,
    };
    let policy = HostPolicy::new(config.pin_dir.clone(), config.state_dir.clone());
    let load = move || -> anyhow::Result<Datapath> {
        mount_bpffs(&wanted.pin_dir)?;
        let mut datapath = Datapath::load(&wanted).context("loading the datapath")?;
        for map in datapath.recreated() {
            tracing::warn!(?map, "a pinned map had another layout and is made anew");
        }
        if wanted.host_mode != HostMode::Off {
            policy.keep_suspended()?;
        }
        if wanted.host_mode != HostMode::Only && !datapath.has_old_maps()? {
            Kernel::attach_node(&mut datapath, &devices)?;
        }
        Ok(datapath)
    };
    tokio::task::spawn_blocking(load).await?
}

/// Mounts a BPF file system at its usual place, if the pins are to be there and there is none.
fn mount_bpffs(pin_dir: &Path) -> anyhow::Result<()> {
    let usual = Path::new(BPFFS);
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !pin_dir.starts_with(usual) || !usual.is_dir() || is_on_bpffs(existing)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), usual, Some("bpf"), flags, Some("mode=700")).with_context(|| {
        format!("no BPF file system is mounted at {BPFFS}, and mounting one failed; run as root")
    })?;
    tracing::info!(path = BPFFS, "BPF file system mounted");
    Ok(())
}

/// Enters the connections that the machine has, attaches its devices, and follows them from then on.
pub(super) async fn attach_devices(
    life: &mut Lifecycle,
    config: &AgentConfig,
    net: &Net,
    node: &NodeHandle,
    warnings: &Warnings,
) -> anyhow::Result<()> {
    if !config.has_host_endpoint() {
        return Ok(());
    }
    let devices = config.host_devices.clone().unwrap_or_else(|| Devices::Named(config.devices.clone()));
    let table = PinnedMaps::open(&config.pin_dir)?.conntrack()?;
    let limit = config.conntrack_tcp_entries / 2;
    let mut follower = DeviceFollower {
        devices,
        net: net.clone(),
        node: node.clone(),
        watch: AddressWatch::of_devices().context("watching devices")?,
        seeder: Some(Seeder::new(table, usize::try_from(limit).unwrap_or(usize::MAX))),
        must_seed: config.host_firewall && !config.host_audit,
        warnings: warnings.clone(),
        current: Vec::new(),
    };
    follower.start().await.context("attaching to the devices of this machine")?;
    life.spawn("devices", follower.run(life.drain()));
    Ok(())
}

/// Where a BPF file system is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";
/// Label by which a policy selects one node.
const HOST_NAME_LABEL: &str = "kubernetes.io/hostname";
