//! Filters by the ends of a flow: names, addresses, ports, labels, identities.

use std::net::IpAddr;

use specola_labels::NumericIdentity;
use specola_proto::flow::{FlowFilter, Workload};

use crate::observe::filter::{End, FilterBuilder, InvalidValue, Outcome, Side};

pub(super) fn pod(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    builder.names(side, |names| names.pods.push(value.to_owned()));
    Ok(())
}

pub(super) fn service(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    builder.names(side, |names| names.services.push(value.to_owned()));
    Ok(())
}

pub(super) fn namespace(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    if value.is_empty() || value.contains('/') {
        return Err(InvalidValue::new("is no namespace"));
    }
    builder.names(side, |names| names.namespaces.push(value.to_owned()));
    Ok(())
}

pub(super) fn all_namespaces(builder: &mut FilterBuilder, side: Side, _: &str) -> Outcome {
    builder.names(side, |names| names.namespaces.push(String::new()));
    Ok(())
}

pub(super) fn ip(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    let value = address(value)?;
    add(builder, side, &value, |filter, end| match end {
        End::Source => &mut filter.source_ip,
        End::Destination => &mut filter.destination_ip,
    })
}

pub(super) fn snat_ip(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let value = address(value)?;
    builder.both(|filter| filter.source_ip_xlated.push(value.clone()));
    Ok(())
}

/// The address or prefix in its canonical text: a server compares addresses as text.
fn address(text: &str) -> Result<String, InvalidValue> {
    let canonical = match text.split_once('/') {
        None => text.parse::<IpAddr>().ok().map(|ip| ip.to_string()),
        Some((ip, length)) => prefix(ip, length),
    };
    canonical.ok_or_else(|| InvalidValue::new("is no IP address or prefix, such as 10.0.0.1 or 10.0.0.0/8"))
}

fn prefix(ip: &str, length: &str) -> Option<String> {
    let ip: IpAddr = ip.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    (length <= longest).then(|| format!("{ip}/{length}"))
}

pub(super) fn port(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    let port: u16 = value.parse().ok().ok_or_else(|| InvalidValue::new("is no port, 0 to 65535"))?;
    add(builder, side, &port.to_string(), |filter, end| match end {
        End::Source => &mut filter.source_port,
        End::Destination => &mut filter.destination_port,
    })
}

pub(super) fn label(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    add(builder, side, value, |filter, end| match end {
        End::Source => &mut filter.source_label,
        End::Destination => &mut filter.destination_label,
    })
}

pub(super) fn identity(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    let named = NumericIdentity::from_reserved_name(value).map(|identity| identity.0);
    let number = named.or_else(|| value.parse().ok()).ok_or_else(|| {
        InvalidValue::new("is no identity; use a number or a reserved name such as host, world, remote-node")
    })?;
    builder.each(side, |filter, end| match end {
        End::Source => filter.source_identity.push(number),
        End::Destination => filter.destination_identity.push(number),
    });
    Ok(())
}

pub(super) fn workload(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    let (kind, name) = value.split_once('/').unwrap_or(("", value));
    if kind.is_empty() && name.is_empty() {
        return Err(InvalidValue::new("names no workload; use NAME or KIND/NAME"));
    }
    let workload = Workload { name: name.to_owned(), kind: kind.to_owned() };
    builder.each(side, |filter, end| match end {
        End::Source => filter.source_workload.push(workload.clone()),
        End::Destination => filter.destination_workload.push(workload.clone()),
    });
    Ok(())
}

pub(super) fn fqdn(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    add(builder, side, value, |filter, end| match end {
        End::Source => &mut filter.source_fqdn,
        End::Destination => &mut filter.destination_fqdn,
    })
}

pub(super) fn cluster(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    add(builder, side, value, |filter, end| match end {
        End::Source => &mut filter.source_cluster_name,
        End::Destination => &mut filter.destination_cluster_name,
    })
}

/// Adds a value to a repeated text field of the source or the destination.
fn add(
    builder: &mut FilterBuilder,
    side: Side,
    value: &str,
    field: fn(&mut FlowFilter, End) -> &mut Vec<String>,
) -> Outcome {
    builder.each(side, |filter, end| field(filter, end).push(value.to_owned()));
    Ok(())
}
