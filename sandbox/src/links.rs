//! The wires of a sandbox: a bridge in the underlay namespace and a veth pair from it to each node.

use std::fs::{self, File};
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures::TryStreamExt;
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::netns;

/// The node's interface on the underlay.
pub(crate) const NODE_DEVICE: &str = "eth0";

const BRIDGE: &str = "br0";

/// One node's connection to the underlay.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub netns: PathBuf,
    /// Addresses of the node with the prefix length of the underlay.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Joins the nodes by a bridge in the namespace `underlay`. Both ends are up afterwards.
///
/// # Errors
/// When the kernel refuses a link, an address or a setting.
pub(crate) fn build_underlay(underlay: &Path, ports: &[Port]) -> anyhow::Result<()> {
    netns::run_in(underlay, || with_netlink(|handle| async move { lay_wires(&handle, ports).await }))?;
    for port in ports {
        netns::run_in(&port.netns, || {
            route_packets()?;
            with_netlink(|handle| async move { configure_node(&handle, port).await })
        })
        .with_context(|| format!("node namespace {}", port.netns.display()))?;
    }
    Ok(())
}

/// Sets up loopback in the namespace at `path`; the rest of a pod's network is the agent's work.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn prepare_pod(path: &Path) -> anyhow::Result<()> {
    netns::run_in(path, || {
        skip_address_detection()?;
        with_netlink(|handle| async move { set_up(&handle, "lo").await })
    })
}

async fn lay_wires(handle: &Handle, ports: &[Port]) -> anyhow::Result<()> {
    set_up(handle, "lo").await?;
    let bridge = LinkBridge::new(BRIDGE).mcast_snooping(false).build();
    handle.link().add(bridge).execute().await.context("cannot make the underlay bridge")?;
    let controller = index(handle, BRIDGE).await?;
    set_up(handle, BRIDGE).await?;
    for (number, port) in ports.iter().enumerate() {
        let name = format!("node{}", number + 1);
        let pair = LinkVeth::new(&name, NODE_DEVICE).build();
        handle.link().add(pair).execute().await.with_context(|| format!("cannot make veth pair {name}"))?;
        let target =
            File::open(&port.netns).with_context(|| format!("cannot open {}", port.netns.display()))?;
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .index(index(handle, NODE_DEVICE).await?)
            .setns_by_fd(target.as_raw_fd());
        handle.link().change(peer.build()).execute().await.context("cannot move a veth end into its node")?;
        let near = LinkUnspec::new_with_index(index(handle, &name).await?).controller(controller).up();
        handle.link().change(near.build()).execute().await.context("cannot join a veth end to the bridge")?;
    }
    Ok(())
}

async fn configure_node(handle: &Handle, port: &Port) -> anyhow::Result<()> {
    set_up(handle, "lo").await?;
    set_up(handle, NODE_DEVICE).await?;
    let device = index(handle, NODE_DEVICE).await?;
    for &(address, prefix) in &port.addresses {
        handle
            .address()
            .add(device, address, prefix)
            .execute()
            .await
            .with_context(|| format!("cannot add the node address {address}/{prefix}"))?;
    }
    Ok(())
}

async fn set_up(handle: &Handle, name: &str) -> anyhow::Result<()> {
    let link = LinkUnspec::new_with_index(index(handle, name).await?).up();
    handle.link().change(link.build()).execute().await.with_context(|| format!("cannot set {name} up"))
}

async fn index(handle: &Handle, name: &str) -> anyhow::Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await.with_context(|| format!("cannot find the interface {name}"))?;
    Ok(link.with_context(|| format!("no interface {name}"))?.header.index)
}

/// Runs `work` with a netlink socket of the calling thread's namespace.
fn with_netlink<F, Fut, T>(work: F) -> anyhow::Result<T>
where
    F: FnOnce(Handle) -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        result
    })
}

fn route_packets() -> anyhow::Result<()> {
    skip_address_detection()?;
    for (name, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/forwarding", "1"),
    ] {
        set(name, value)?;
    }
    for interface in fs::read_dir("/proc/sys/net/ipv4/conf").context("cannot list interfaces")? {
        let interface = interface?.file_name();
        set(&format!("net/ipv4/conf/{}/rp_filter", interface.to_string_lossy()), "0")?;
    }
    Ok(())
}

/// Addresses are usable at once: nobody else is on these links.
fn skip_address_detection() -> anyhow::Result<()> {
    for interface in fs::read_dir("/proc/sys/net/ipv6/conf").context("this kernel has no IPv6")? {
        let interface = interface?.file_name();
        let interface = interface.to_string_lossy();
        // Some machines switch IPv6 off for all new interfaces.
        set(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
        set(&format!("net/ipv6/conf/{interface}/accept_dad"), "0")?;
    }
    Ok(())
}

fn set(name: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value).with_context(|| format!("cannot set {path} to {value}"))
}
