//! The host device: the way from the node's own stack to its pods.
//!
//! `specola_host` carries the router addresses, and the node's pod CIDRs are routed to it, so that all traffic of the
//! stack for pods passes one hook. Its veth peer `specola_net` only keeps it running.

use std::net::IpAddr;

use ipnet::IpNet;

use super::link::{self, RouteTo, Side};
use super::{Mac, Net, NetError, sysctl};
use crate::ipam::Addresses;

/// The host device as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct HostDevice {
    pub(crate) ifindex: u32,
    pub(crate) mac: Mac,
}

impl Net {
    /// Name of the host device.
    pub(crate) const HOST_DEVICE: &str = HOST;

    /// Makes the host device and routes the pod CIDRs to it. Idempotent.
    pub(crate) async fn ensure_host_device(
        &self,
        routers: Addresses,
        cidrs: &[IpNet],
        devices: &[String],
        mtu: u32,
    ) -> Result<HostDevice, NetError> {
        for device in devices {
            self.ifindex(device).await?;
        }
        node_settings(devices)?;
        if link::find(&self.handle, HOST).await?.is_none() {
            let side = |name| Side { name, mac: None, mtu, netns_fd: None };
            link::add_veth(&self.handle, &side(HOST), &side(PEER)).await?;
        }
        for name in [HOST, PEER] {
            device_settings(name)?;
            link::set_up(&self.handle, self.ifindex(name).await?, false).await?;
        }
        let missing = NetError::NoDevice { name: HOST.to_owned(), hint: ": it vanished" };
        let host = link::find(&self.handle, HOST).await?.ok_or(missing)?;
        for router in routers.iter() {
            link::add_address(&self.handle, host.index, router).await?;
        }
        for cidr in cidrs {
            let source = routers.iter().find(|router| router.is_ipv4() == cidr.addr().is_ipv4());
            self.route_to_host(*cidr, host.index, source).await?;
        }
        Ok(HostDevice { ifindex: host.index, mac: host.mac })
    }

    async fn route_to_host(&self, cidr: IpNet, device: u32, source: Option<IpAddr>) -> Result<(), NetError> {
        let to = RouteTo { device: Some(device), gateway: None, source };
        link::add_route(&self.handle, cidr, to).await
    }
}

fn node_settings(devices: &[String]) -> Result<(), NetError> {
    sysctl::set("ipv4/conf/all/forwarding", "1")?;
    sysctl::set("ipv4/ip_forward", "1")?;
    // The strictest of `all` and the device counts, so `all` must not filter.
    sysctl::set("ipv4/conf/all/rp_filter", "0")?;
    sysctl::set_ipv6("conf/all/forwarding", "1")?;
    for device in devices {
        sysctl::set(&format!("ipv4/conf/{device}/rp_filter"), "0")?;
    }
    Ok(())
}

fn device_settings(device: &str) -> Result<(), NetError> {
    sysctl::set(&format!("ipv4/conf/{device}/rp_filter"), "0")?;
    sysctl::set(&format!("ipv4/conf/{device}/forwarding"), "1")?;
    sysctl::set(&format!("ipv4/conf/{device}/send_redirects"), "0")?;
    sysctl::set_ipv6(&format!("conf/{device}/forwarding"), "1")?;
    sysctl::set_ipv6(&format!("conf/{device}/addr_gen_mode"), "1")?;
    sysctl::set_ipv6(&format!("conf/{device}/accept_dad"), "0")
}

/// The device with the router addresses.
const HOST: &str = "specola_host";
/// Its other end.
const PEER: &str = "specola_net";
