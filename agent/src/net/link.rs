//! Requests about links, addresses, routes and neighbours.

use std::net::IpAddr;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{Mac, NetError};

/// Mark of the routes that this agent made, so that it never removes another program's.
pub(super) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(83);

/// A link that exists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Found {
    pub(super) index: u32,
    pub(super) mac: Mac,
}

/// Looks a link up by name.
pub(super) async fn find(handle: &Handle, name: &str) -> Result<Option<Found>, NetError> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(Some(message)) => Ok(Some(found(&message))),
        Ok(None) => Ok(None),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -NO_DEVICE => Ok(None),
        Err(error) => Err(NetError::netlink(format!("look up device {name}"))(error)),
    }
}

/// Names of all links by index.
pub(super) async fn names(handle: &Handle) -> Result<Vec<(u32, String)>, NetError> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(NetError::netlink("list devices"))?;
    Ok(links.iter().filter_map(|link| Some((link.header.index, name_of(link)?))).collect())
}

/// A device of the machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// What its frames begin with.
    pub(crate) layer: LinkLayerType,
    pub(crate) is_up: bool,
    pub(crate) is_loopback: bool,
    /// It is a part of another device: a bridge's port, a bond's slave.
    pub(crate) has_master: bool,
    /// It has an address that others can use: no link-local one.
    pub(crate) has_address: bool,
}

/// All links.
pub(super) async fn devices(handle: &Handle) -> Result<Vec<Device>, NetError> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(NetError::netlink("list devices"))?;
    let addresses: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(NetError::netlink("list addresses"))?;
    let has_address = |index: u32| {
        let of_link = addresses.iter().filter(|address| address.header.index == index);
        of_link.filter(|address| address.header.scope == AddressScope::Universe).count() > 0
    };
    let device = |link: &LinkMessage| {
        let flags = link.header.flags;
        Some(Device {
            index: link.header.index,
            name: name_of(link)?,
            layer: link.header.link_layer_type,
            is_up: flags.contains(LinkFlags::Up),
            is_loopback: flags.contains(LinkFlags::Loopback),
            has_master: link
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, LinkAttribute::Controller(_))),
            has_address: has_address(link.header.index),
        })
    };
    let mut devices: Vec<Device> = links.iter().filter_map(device).collect();
    devices.sort_by_key(|device| device.index);
    Ok(devices)
}

/// One side of a new veth pair.
pub(super) struct Side<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    /// Namespace to put it in, by open file descriptor.
    pub(super) netns_fd: Option<i32>,
}

/// Creates a veth pair, both sides complete in one request.
pub(super) async fn add_veth(handle: &Handle, side: &Side<'_>, peer: &Side<'_>) -> Result<(), NetError> {
    let mut there = LinkUnspec::new_with_name(peer.name).mtu(peer.mtu);
    if let Some(mac) = peer.mac {
        there = there.address(mac.to_vec());
    }
    if let Some(fd) = peer.netns_fd {
        there = there.setns_by_fd(fd);
    }
    let mut here = LinkMessageBuilder::<LinkVeth>::new(side.name, peer.name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(there.build())))
        .mtu(side.mtu);
    if let Some(mac) = side.mac {
        here = here.address(mac.to_vec());
    }
    let action = format!("create the veth pair {} - {}", side.name, peer.name);
    handle.link().add(here.build()).execute().await.map_err(NetError::netlink(action))
}

/// Removes a link; fine when it does not exist.
pub(super) async fn remove(handle: &Handle, name: &str) -> Result<(), NetError> {
    let Some(link) = find(handle, name).await? else { return Ok(()) };
    match handle.link().del(link.index).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -NO_DEVICE => Ok(()),
        result => result.map_err(NetError::netlink(format!("remove device {name}"))),
    }
}

/// Sets a link up, with or without ARP.
pub(super) async fn set_up(handle: &Handle, index: u32, arp: bool) -> Result<(), NetError> {
    let message = LinkUnspec::new_with_index(index).arp(arp).up().build();
    handle.link().set(message).execute().await.map_err(NetError::netlink(format!("set device {index} up")))
}

/// Gives a link a host address (/32 or /128), without duplicate address detection.
pub(super) async fn add_address(handle: &Handle, index: u32, address: IpAddr) -> Result<(), NetError> {
    let mut request = handle.address().add(index, address, IpNet::from(address).prefix_len()).replace();
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request.execute().await.map_err(NetError::netlink(format!("add address {address} to device {index}")))
}

/// Addresses of all links, but for loopback ones, and those of IPv6 that are link-local.
///
/// The kernel takes a packet to such an address only on the link that has it, and the node's sides of the pod links
/// have none, so no pod reaches the node with it. The same one may also be another host's on another link. IPv4 has no
/// such rule: 169.254.0.0/16 answers on every link.
pub(super) async fn local_addresses(handle: &Handle) -> Result<Vec<IpAddr>, NetError> {
    let list = handle.address().get().execute();
    let messages: Vec<AddressMessage> =
        list.try_collect().await.map_err(NetError::netlink("list addresses"))?;
    // On point-to-point links IFA_ADDRESS is the peer's; IFA_LOCAL is there whenever they differ.
    let address_of = |message: &AddressMessage| {
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        local.or_else(|| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })
    };
    let of_one_link =
        |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let all = messages.iter().filter_map(address_of);
    Ok(all.filter(|address| !address.is_loopback() && !of_one_link(address)).collect())
}

/// A permanent neighbour.
pub(super) async fn add_neighbour(
    handle: &Handle,
    index: u32,
    address: IpAddr,
    mac: Mac,
) -> Result<(), NetError> {
    let request = handle.neighbours().add(index, address).link_layer_address(&mac).replace();
    request.execute().await.map_err(NetError::netlink(format!("add neighbour {address} on device {index}")))
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RouteTo {
    pub(super) device: Option<u32>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
}

/// Adds or replaces a route.
pub(super) async fn add_route(handle: &Handle, destination: IpNet, to: RouteTo) -> Result<(), NetError> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.network(), destination.prefix_len())
        .map_err(|error| invalid_route(destination, &error))?
        .protocol(ROUTE_PROTOCOL)
        .scope(if to.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link });
    if let Some(device) = to.device {
        builder = builder.output_interface(device);
    }
    if let Some(gateway) = to.gateway {
        builder = builder.gateway(gateway).map_err(|error| invalid_route(destination, &error))?;
    }
    if let Some(source) = to.source {
        builder = builder.pref_source(source).map_err(|error| invalid_route(destination, &error))?;
    }
    let request = handle.route().add(builder.build()).replace();
    request.execute().await.map_err(NetError::netlink(format!("add the route to {destination}")))
}

/// This agent's routes.
pub(super) async fn own_routes(handle: &Handle) -> Result<Vec<RouteMessage>, NetError> {
    let mut own = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        let mut routes = Box::pin(handle.route().get(filter).execute());
        while let Some(route) = routes.next().await {
            let route = route.map_err(NetError::netlink("list routes"))?;
            if route.header.protocol == ROUTE_PROTOCOL {
                own.push(route);
            }
        }
    }
    Ok(own)
}

fn invalid_route(destination: IpNet, error: &impl std::fmt::Display) -> NetError {
    NetError::Route { destination, message: error.to_string() }
}

fn found(message: &LinkMessage) -> Found {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => Mac::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Found { index: message.header.index, mac: mac.unwrap_or_default() }
}

fn name_of(message: &LinkMessage) -> Option<String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// ENODEV.
const NO_DEVICE: i32 = nix::errno::Errno::ENODEV as i32;
