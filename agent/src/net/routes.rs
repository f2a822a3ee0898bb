//! Routes to the pods of other nodes (native routing).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use super::link::{self, RouteTo};
use super::{Net, NetError};

impl Net {
    /// Makes the routes over gateways equal to `wanted` (pod CIDR to node address); other programs' routes are not
    /// touched. Goes on after an error, and returns every one.
    pub(crate) async fn sync_peer_routes(&self, wanted: &BTreeMap<IpNet, IpAddr>) -> Vec<NetError> {
        let mut errors = Vec::new();
        for (&destination, &gateway) in wanted {
            let to = RouteTo { gateway: Some(gateway), ..RouteTo::default() };
            errors.extend(link::add_route(&self.handle, destination, to).await.err());
        }
        match link::own_routes(&self.handle).await {
            Ok(routes) => {
                for route in routes.into_iter().filter(|route| is_stale(route, wanted)) {
                    let removed = self.handle.route().del(route).execute().await;
                    errors.extend(removed.map_err(NetError::netlink("remove an old route")).err());
                }
            }
            Err(error) => errors.push(error),
        }
        errors
    }

    /// Removes all routes that an agent made.
    pub(crate) async fn remove_own_routes(&self) -> Result<(), NetError> {
        for route in link::own_routes(&self.handle).await? {
            let removed = self.handle.route().del(route).execute().await;
            removed.map_err(NetError::netlink("remove a route"))?;
        }
        Ok(())
    }
}

fn is_stale(route: &RouteMessage, wanted: &BTreeMap<IpNet, IpAddr>) -> bool {
    let over_gateway =
        route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Gateway(_)));
    over_gateway && destination(route).is_none_or(|prefix| !wanted.contains_key(&prefix))
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}
