//! Addresses of nodes: those that the file gives, and those that it leaves to the sandbox.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::NodeSpec;
use super::document::Object;

/// Reads a node's addresses and pod networks; writes those that are missing into the object.
///
/// `number` counts the nodes of the file, from 1.
pub(super) fn complete_node(object: &mut Object, number: usize) -> Result<NodeSpec, String> {
    let number = u8::try_from(number).map_err(|_too_many| "too many nodes".to_owned())?;
    let mut addresses = internal_addresses(object)?;
    if addresses.is_empty() {
        addresses = default_addresses(number);
        let entries =
            addresses.iter().map(|address| json!({"type": "InternalIP", "address": address.to_string()}));
        let mut all: Vec<Value> = entries.collect();
        if let Some(Value::Array(others)) = object.value.pointer("/status/addresses") {
            all.extend(others.iter().cloned());
        }
        object.set(&["status", "addresses"], Value::Array(all));
    }
    let mut pod_cidrs = pod_networks(object)?;
    if pod_cidrs.is_empty() {
        pod_cidrs = default_pod_networks(number);
        object.set(&["spec", "podCIDR"], json!(pod_cidrs[0].to_string()));
        let texts: Vec<String> = pod_cidrs.iter().map(IpNet::to_string).collect();
        object.set(&["spec", "podCIDRs"], json!(texts));
    }
    let clock_offset_ms = clock_offset_ms(object)?;
    Ok(NodeSpec { name: object.name.clone(), addresses, pod_cidrs, clock_offset_ms })
}

fn clock_offset_ms(object: &Object) -> Result<i64, String> {
    let Some(value) = object.value.pointer("/metadata/annotations").and_then(|map| map.get(CLOCK_OFFSET))
    else {
        return Ok(0);
    };
    let number = value.as_str().and_then(|text| text.strip_suffix("ms")?.parse().ok());
    number
        .ok_or_else(|| format!("metadata.annotations[{CLOCK_OFFSET}]: {value} is no time such as \"-20ms\""))
}

/// Annotation of a Node: how far the times of its flows are off.
const CLOCK_OFFSET: &str = "sandbox.specola.io/clock-offset";

/// Refuses nodes whose addresses or pod networks meet.
pub(super) fn check_apart(nodes: &[NodeSpec]) -> Result<(), String> {
    let networks = |node: &NodeSpec| -> Vec<IpNet> {
        let hosts = node.addresses.iter().map(|&address| IpNet::from(address));
        hosts.chain(node.pod_cidrs.iter().copied()).collect()
    };
    for (number, node) in nodes.iter().enumerate() {
        for other in &nodes[number + 1..] {
            for a in networks(node) {
                if let Some(b) = networks(other).into_iter().find(|b| a.contains(b) || b.contains(&a)) {
                    return Err(format!("nodes {} and {} overlap: {a} and {b}", node.name, other.name));
                }
            }
        }
    }
    Ok(())
}

/// Length of the shortest prefix that makes all nodes neighbours on the underlay, per family.
pub(crate) fn underlay_prefix(nodes: &[NodeSpec], is_v4: bool) -> u8 {
    let (width, longest) = if is_v4 { (32, 24) } else { (128, 64) };
    let bits = |address: &IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let addresses =
        nodes.iter().flat_map(|node| &node.addresses).filter(|address| address.is_ipv4() == is_v4);
    let mut addresses = addresses.map(bits);
    let Some(first) = addresses.next() else { return longest };
    let common = addresses.map(|other| (first ^ other).leading_zeros()).min().unwrap_or(width);
    u8::try_from(common).map_or(longest, |common| common.min(longest))
}

fn internal_addresses(object: &Object) -> Result<Vec<IpAddr>, String> {
    let entries = match object.value.pointer("/status/addresses") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err("status.addresses: not a list".to_owned()),
    };
    let mut addresses = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        if entry["type"] != "InternalIP" {
            continue;
        }
        let text = entry["address"].as_str().unwrap_or_default();
        let address = text
            .parse()
            .map_err(|_not_ip| format!("status.addresses[{number}].address: {text:?} is no IP address"))?;
        addresses.push(address);
    }
    Ok(addresses)
}

fn pod_networks(object: &Object) -> Result<Vec<IpNet>, String> {
    let single = object.value.pointer("/spec/podCIDR").and_then(Value::as_str).map(|text| vec![json!(text)]);
    let texts = match object.value.pointer("/spec/podCIDRs") {
        None | Some(Value::Null) => single.unwrap_or_default(),
        Some(Value::Array(texts)) => texts.clone(),
        Some(_) => return Err("spec.podCIDRs: not a list".to_owned()),
    };
    let parse = |(number, text): (usize, &Value)| {
        let text = text.as_str().unwrap_or_default();
        let network = text
            .parse::<IpNet>()
            .map_err(|_not_cidr| format!("spec.podCIDRs[{number}]: {text:?} is no CIDR"))?;
        if network.trunc() == network {
            Ok(network)
        } else {
            Err(format!("spec.podCIDRs[{number}]: {text} has host bits"))
        }
    };
    texts.iter().enumerate().map(parse).collect()
}

fn default_addresses(number: u8) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0x10 + u16::from(number));
    vec![IpAddr::V4(Ipv4Addr::new(172, 30, 0, 10 + number)), IpAddr::V6(v6)]
}

fn default_pod_networks(number: u8) -> Vec<IpNet> {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, number, 0), 24);
    let v6 = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(number), 0, 0, 0, 0), 64);
    vec![IpNet::V4(v4), IpNet::V6(v6)]
}
