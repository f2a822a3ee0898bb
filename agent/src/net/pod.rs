//! The link between a pod and its node: a veth pair.
//!
//! The pod has host addresses only (/32, /128) and reaches everything through the node's router address, whose
//! neighbour entry is permanent and names the host side. So neither ARP nor neighbour discovery is needed, and a pod
//! cannot reach another one but through the programs on the host side.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use ipnet::IpNet;
use rtnetlink::Handle;

use super::link::{self, RouteTo, Side};
use super::netns::in_netns;
use super::{Mac, Net, NetError, sysctl};
use crate::ipam::Addresses;

/// What a pod's link shall be.
#[derive(Clone, Debug)]
pub(crate) struct PodLinkRequest {
    pub(crate) netns: PathBuf,
    /// Name inside the pod.
    pub(crate) ifname: String,
    pub(crate) host_ifname: String,
    pub(crate) mac: Mac,
    pub(crate) host_mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) addresses: Addresses,
    pub(crate) gateways: Addresses,
}

/// A pod's link as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PodLink {
    pub(crate) host_ifindex: u32,
    pub(crate) host_mac: Mac,
    pub(crate) mac: Mac,
}

impl Net {
    /// Makes the link, or completes what is there. Idempotent; nothing is left behind on an error.
    pub(crate) async fn ensure_pod_link(&self, request: &PodLinkRequest) -> Result<PodLink, NetError> {
        let result = self.make_pod_link(request).await;
        if result.is_err()
            && let Err(error) = self.remove_pod_link(&request.host_ifname).await
        {
            tracing::warn!(device = request.host_ifname, %error, "half-made pod link stays");
        }
        result
    }

    /// Removes the link, with both sides.
    pub(crate) async fn remove_pod_link(&self, host_ifname: &str) -> Result<(), NetError> {
        link::remove(&self.handle, host_ifname).await
    }

    async fn make_pod_link(&self, request: &PodLinkRequest) -> Result<PodLink, NetError> {
        let inside = self.pod_side(request).await?;
        let outside = link::find(&self.handle, &request.host_ifname).await?;
        if inside.is_none() || outside.is_none() {
            link::remove(&self.handle, &request.host_ifname).await?;
            self.create_pair(request).await?;
        }
        let host = link::find(&self.handle, &request.host_ifname).await?;
        let host = host
            .ok_or_else(|| NetError::NoDevice { name: request.host_ifname.clone(), hint: ": it vanished" })?;
        host_side_settings(&request.host_ifname)?;
        link::set_up(&self.handle, host.index, true).await?;
        let owned = request.clone();
        let mac = blocking(request, move || {
            let host_mac = host.mac;
            in_netns(&owned.netns, |handle| configure_pod(handle, &owned, host_mac))
        })
        .await?;
        Ok(PodLink { host_ifindex: host.index, host_mac: host.mac, mac })
    }

    async fn pod_side(&self, request: &PodLinkRequest) -> Result<Option<link::Found>, NetError> {
        let owned = request.clone();
        blocking(request, move || {
            in_netns(&owned.netns, |handle| async move { link::find(&handle, &owned.ifname).await })
        })
        .await
    }

    async fn create_pair(&self, request: &PodLinkRequest) -> Result<(), NetError> {
        let netns = File::open(&request.netns)
            .map_err(|cause| NetError::Enter { path: request.netns.clone(), cause })?;
        let host = Side {
            name: &request.host_ifname,
            mac: Some(request.host_mac),
            mtu: request.mtu,
            netns_fd: None,
        };
        let pod = Side {
            name: &request.ifname,
            mac: Some(request.mac),
            mtu: request.mtu,
            netns_fd: Some(netns.as_raw_fd()),
        };
        link::add_veth(&self.handle, &host, &pod).await
    }
}

async fn blocking<T: Send + 'static>(
    request: &PodLinkRequest,
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|_| Err(NetError::Panicked { path: request.netns.clone() }))
}

/// The pod's address is routed elsewhere (to the host device), so reverse path filtering must not judge here.
fn host_side_settings(device: &str) -> Result<(), NetError> {
    sysctl::set(&format!("ipv4/conf/{device}/rp_filter"), "0")?;
    sysctl::set(&format!("ipv4/conf/{device}/forwarding"), "1")?;
    sysctl::set(&format!("ipv4/conf/{device}/send_redirects"), "0")?;
    sysctl::set_ipv6(&format!("conf/{device}/forwarding"), "1")?;
    sysctl::set_ipv6(&format!("conf/{device}/accept_ra"), "0")?;
    sysctl::set_ipv6(&format!("conf/{device}/addr_gen_mode"), "1")
}

async fn configure_pod(handle: Handle, request: &PodLinkRequest, host_mac: Mac) -> Result<Mac, NetError> {
    let device = link::find(&handle, &request.ifname).await?;
    let device =
        device.ok_or_else(|| NetError::NoDevice { name: request.ifname.clone(), hint: " in the pod" })?;
    sysctl::set_ipv6(&format!("conf/{}/accept_dad", request.ifname), "0")?;
    sysctl::set_ipv6(&format!("conf/{}/accept_ra", request.ifname), "0")?;
    if let Some(loopback) = link::find(&handle, "lo").await? {
        link::set_up(&handle, loopback.index, true).await?;
    }
    link::set_up(&handle, device.index, true).await?;
    for address in request.addresses.iter() {
        link::add_address(&handle, device.index, address).await?;
    }
    for gateway in request.gateways.iter() {
        let direct = RouteTo { device: Some(device.index), ..RouteTo::default() };
        link::add_route(&handle, IpNet::from(gateway), direct).await?;
        let default = RouteTo { gateway: Some(gateway), ..direct };
        link::add_route(&handle, default_prefix(gateway), default).await?;
        link::add_neighbour(&handle, device.index, gateway, host_mac).await?;
    }
    Ok(device.mac)
}

fn default_prefix(family: IpAddr) -> IpNet {
    IpNet::new(family, 0).map_or_else(|_| IpNet::from(family), |prefix| prefix.trunc())
}
