//! Which connection is asked about.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context as _;
use specola_proto::flow::{Endpoint, Flow, FlowFilter, IcmPv4, IcmPv6, Layer4, Policy, Tcp, Udp, layer4};
use specola_proto::observer::observer_client::ObserverClient;
use specola_proto::observer::{GetFlowsRequest, get_flows_response};

use crate::error::{UsageError, status_text};
use crate::target::TargetArgs;

/// A connection as it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Uuid of the flow that it was, if it was one.
    pub(super) flow: Option<String>,
    pub(super) from: AskedEnd,
    pub(super) to: AskedEnd,
    /// IANA protocol number.
    pub(super) proto: u8,
    pub(super) port: u16,
    /// What the flow itself says about the rules: field and policy.
    pub(super) carried: Vec<(&'static str, Policy)>,
}

/// One end as it was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct AskedEnd {
    pub(super) name: String,
    /// Its address in the flow, for a pod that is not known here.
    pub(super) address: Option<IpAddr>,
}

impl From<&str> for AskedEnd {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), address: None }
    }
}

/// Reads `8080/tcp`.
///
/// # Errors
/// It has another form.
pub(super) fn parse_port(text: &str) -> Result<(u16, u8), UsageError> {
    let bad = || {
        UsageError::text(format!(
            "{text:?} is no port; write PORT/PROTOCOL, such as 8080/tcp, 53/udp or 8/icmp"
        ))
    };
    let (port, protocol) = text.split_once('/').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_invalid| bad())?;
    let proto = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        "icmp" | "icmpv4" => 1,
        "icmpv6" => 58,
        _ => return Err(bad()),
    };
    Ok((port, proto))
}

/// Finds flows and what they were about, in the order of the uuids.
///
/// # Errors
/// No server knows one of them, or it has no port.
pub(super) async fn asked_by_flows(servers: &TargetArgs, uuids: &[String]) -> anyhow::Result<Vec<Asked>> {
    let mut found: BTreeMap<String, Flow> = BTreeMap::new();
    for target in servers.resolve()? {
        let mut client = ObserverClient::new(target.connect(servers.timeout).await?);
        let filter = FlowFilter { uuid: uuids.to_vec(), ..FlowFilter::default() };
        let request =
            GetFlowsRequest { number: u64::MAX, whitelist: vec![filter], ..GetFlowsRequest::default() };
        let name = &target.name;
        let cannot =
            |status: tonic::Status| anyhow::anyhow!("{name}: cannot get the flow: {}", status_text(&status));
        let mut stream = client.get_flows(request).await.map_err(cannot)?.into_inner();
        while let Some(response) = stream.message().await.map_err(cannot)? {
            if let Some(get_flows_response::ResponseTypes::Flow(flow)) = response.response_types {
                found.insert(flow.uuid.clone(), flow);
            }
        }
        if found.len() == uuids.len() {
            break;
        }
    }
    let asked = |uuid: &String| {
        let flow = found.get(uuid).with_context(|| {
            format!(
                "no flow {uuid} is held any more; `specola observe -o json` shows the uuids of those that are"
            )
        })?;
        asked_about(flow)
    };
    uuids.iter().map(asked).collect()
}

fn asked_about(flow: &Flow) -> anyhow::Result<Asked> {
    let l4 = flow.l4.as_ref().and_then(|Layer4 { protocol }| protocol.as_ref());
    let (proto, port) = match l4.context("the flow has no port that policies decide on")? {
        layer4::Protocol::Tcp(Tcp { destination_port, .. }) => (6, *destination_port),
        layer4::Protocol::Udp(Udp { destination_port, .. }) => (17, *destination_port),
        layer4::Protocol::Sctp(sctp) => (132, sctp.destination_port),
        layer4::Protocol::IcmPv4(IcmPv4 { r#type, .. }) => (1, *r#type),
        layer4::Protocol::IcmPv6(IcmPv6 { r#type, .. }) => (58, *r#type),
        _ => anyhow::bail!("the flow has no port that policies decide on"),
    };
    let ip = flow.ip.clone().unwrap_or_default();
    let fields: [(&'static str, &Vec<Policy>); 4] = [
        ("egress_allowed_by", &flow.egress_allowed_by),
        ("egress_denied_by", &flow.egress_denied_by),
        ("ingress_allowed_by", &flow.ingress_allowed_by),
        ("ingress_denied_by", &flow.ingress_denied_by),
    ];
    let carried = fields.into_iter().flat_map(|(field, list)| list.iter().map(move |p| (field, p.clone())));
    Ok(Asked {
        flow: Some(flow.uuid.clone()),
        from: end(flow.source.as_ref(), &ip.source),
        to: end(flow.destination.as_ref(), &ip.destination),
        proto,
        port: u16::try_from(port).context("the flow's port is out of range")?,
        carried: carried.collect(),
    })
}

/// The pod, else the address.
fn end(endpoint: Option<&Endpoint>, address: &str) -> AskedEnd {
    let pod = endpoint.filter(|endpoint| !endpoint.pod_name.is_empty());
    let name = pod.map_or_else(|| address.to_owned(), |pod| format!("{}/{}", pod.namespace, pod.pod_name));
    AskedEnd { name, address: address.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_a_protocol() {
        assert_eq!(parse_port("8080/tcp").ok(), Some((8080, 6)));
        assert_eq!(parse_port("53/UDP").ok(), Some((53, 17)));
        for bad in ["80", "tcp/80", "80/gre", "70000/tcp", ""] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ends_of_a_flow_are_pods_or_addresses() {
        let pod = Endpoint { namespace: "shop".to_owned(), pod_name: "db".to_owned(), ..Endpoint::default() };
        let address = "10.0.0.1".parse().ok();
        let named = |name: &str| AskedEnd { name: name.to_owned(), address };
        assert_eq!(end(Some(&pod), "10.0.0.1"), named("shop/db"));
        assert_eq!(end(Some(&Endpoint::default()), "10.0.0.1"), named("10.0.0.1"));
    }
}
