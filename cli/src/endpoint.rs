//! `specola endpoint`.

mod redirect;

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;
use specola_proto::specola::v1::{
    AppliedPolicy, Endpoint, EndpointState, GetEndpointRequest, GetEndpointResponse, ListEndpointsRequest,
    PodRef, PolicyEntry, PolicyOrigin, PolicyStatus, get_endpoint_request,
};

use crate::columns::Columns;
use crate::error::UsageError;
use crate::node::{Node, Output, block_on, print_json, stdout};
use crate::printer::{escape, identity_text};
use crate::target::AdminArgs;

/// What to do with endpoints.
#[derive(Subcommand)]
pub(crate) enum EndpointCommand {
    /// List the endpoints of the node, or of all nodes of a sandbox.
    List(ListArgs),
    /// Show one endpoint with the policy that the kernel enforces.
    Get(GetArgs),
}

/// Arguments of `endpoint list`.
#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Arguments of `endpoint get`.
#[derive(Args)]
pub(crate) struct GetArgs {
    /// The endpoint: its id, NAMESPACE/POD, or one of its addresses.
    #[arg(value_name = "ID|NAMESPACE/POD|IP")]
    endpoint: String,
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// An agent does not answer, or has no such endpoint.
pub(crate) fn run(command: EndpointCommand) -> anyhow::Result<ExitCode> {
    match command {
        EndpointCommand::List(args) => block_on(list(&args)),
        EndpointCommand::Get(args) => block_on(get(&args)),
    }
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let mut endpoints = Vec::new();
    for mut node in Node::all(&args.admin).await? {
        let answer = node.call("list endpoints", |mut client| async move {
            client.list_endpoints(ListEndpointsRequest {}).await
        });
        endpoints.extend(answer.await?.endpoints);
    }
    endpoints.sort_by(|one, other| (&one.node, one.id).cmp(&(&other.node, other.id)));
    let mut out = stdout();
    match args.output {
        Output::Json => print_json(&mut out, &json!({ "endpoints": endpoints }))?,
        Output::Compact => table(&endpoints).write(&mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let key = parse_key(&args.endpoint)?;
    let mut nodes = Node::all(&args.admin).await?;
    if nodes.len() > 1 && matches!(key, get_endpoint_request::Key::Id(_)) {
        return Err(UsageError::text("ids are numbers of one node; use NAMESPACE/POD or an address").into());
    }
    let mut failures = Vec::new();
    for node in &mut nodes {
        let request = GetEndpointRequest { key: Some(key.clone()) };
        let answer = node
            .call("show the endpoint", |mut client| async move { client.get_endpoint(request).await })
            .await;
        match answer {
            Ok(found) => {
                print_one(&mut stdout(), &found, args.output)?;
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    anyhow::bail!("{}; `specola endpoint list` shows the endpoints", failures.join("; "))
}

fn parse_key(text: &str) -> Result<get_endpoint_request::Key, UsageError> {
    if let Ok(id) = text.parse() {
        return Ok(get_endpoint_request::Key::Id(id));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(get_endpoint_request::Key::Ip(ip.to_string()));
    }
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(get_endpoint_request::Key::Pod(PodRef {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }))
        }
        _ => {
            Err(UsageError::text(format!("{text:?} is no endpoint; use an id, NAMESPACE/POD or an address")))
        }
    }
}

fn table(endpoints: &[Endpoint]) -> Columns {
    let mut table = Columns::new([
        "NODE", "ID", "POD", "STATE", "IDENTITY", "IPS", "INGRESS", "EGRESS", "POLICY", "REVISION", "ENTRIES",
    ]);
    for endpoint in endpoints {
        table.row([
            escape(&endpoint.node),
            endpoint.id.to_string(),
            pod_text(endpoint),
            state_text(endpoint.state),
            identity_text(endpoint.identity),
            escape(&endpoint.ips.join(",")),
            enforced_text(endpoint.ingress_enforced).to_owned(),
            enforced_text(endpoint.egress_enforced).to_owned(),
            policy_text(endpoint),
            endpoint.policy_revision.to_string(),
            entries_text(endpoint),
        ]);
    }
    table
}

fn print_one(out: &mut impl Write, found: &GetEndpointResponse, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return print_json(out, found);
    }
    if let Some(endpoint) = &found.endpoint {
        print_endpoint(out, endpoint)?;
    }
    for (direction, origins) in
        [("ingress", &found.ingress_selected_by), ("egress", &found.egress_selected_by)]
    {
        if !origins.is_empty() {
            let origins: Vec<_> = origins.iter().map(origin_text).collect();
            writeln!(out, "{direction} selected by: {}", origins.join(", "))?;
        }
    }
    if !found.policies.is_empty() {
        writeln!(out)?;
        applied_table(&found.policies).write(out)?;
    }
    if !found.policy.is_empty() {
        writeln!(out)?;
        policy_table(&found.policy).write(out)?;
    }
    if !found.redirects.is_empty() {
        writeln!(out)?;
        redirect::table(&found.redirects).write(out)?;
    }
    Ok(())
}

fn print_endpoint(out: &mut impl Write, endpoint: &Endpoint) -> anyhow::Result<()> {
    for (name, value) in [
        ("endpoint", endpoint.id.to_string()),
        ("pod", pod_text(endpoint)),
        ("node", escape(&endpoint.node)),
        ("state", state_text(endpoint.state)),
        ("identity", endpoint.identity.to_string()),
        ("labels", escape(&endpoint.labels.join(" "))),
        ("addresses", escape(&endpoint.ips.join(" "))),
        ("mac", escape(&endpoint.mac)),
        ("interface", escape(&endpoint.host_ifname)),
        ("policy", policy_text(endpoint)),
        ("policy revision", endpoint.policy_revision.to_string()),
        ("policy entries", entries_text(endpoint)),
        ("ingress", enforced_text(endpoint.ingress_enforced).to_owned()),
        ("egress", enforced_text(endpoint.egress_enforced).to_owned()),
    ] {
        writeln!(out, "{name}: {value}")?;
    }
    for condition in &endpoint.conditions {
        writeln!(out, "condition: {}", escape(condition))?;
    }
    Ok(())
}

fn applied_table(policies: &[AppliedPolicy]) -> Columns {
    let mut table = Columns::new(["POLICY", "KIND", "REVISION", "STATUS"]);
    for policy in policies {
        let name = match policy.namespace.as_str() {
            "" => policy.name.clone(),
            namespace => format!("{namespace}/{}", policy.name),
        };
        let status = if policy.realized { "realized" } else { "not realized" };
        table.row([escape(&name), escape(&policy.kind), policy.revision.to_string(), status.to_owned()]);
    }
    table
}

fn policy_table(entries: &[PolicyEntry]) -> Columns {
    let mut table =
        Columns::new(["DIRECTION", "IDENTITY", "PROTOCOL", "PORT", "ACTION", "PRECEDENCE", "ORIGIN"]);
    for entry in entries {
        let origins: Vec<_> = entry.origins.iter().map(origin_text).collect();
        table.row([
            escape(&entry.direction),
            if entry.identity == 0 { "any".to_owned() } else { identity_text(entry.identity) },
            protocol_text(entry.protocol),
            port_text(entry.first_port, entry.last_port),
            escape(&entry.action),
            entry.precedence.to_string(),
            origins.join(", "),
        ]);
    }
    table
}

/// `CiliumNetworkPolicy shop/backend ingress[0]`.
pub(crate) fn origin_text(origin: &PolicyOrigin) -> String {
    let name = match (origin.namespace.as_str(), origin.name.as_str()) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    let mut text = name;
    if !origin.kind.is_empty() {
        text = format!("{} {text}", origin.kind);
    }
    if !origin.section.is_empty() {
        text = format!("{text} {}[{}]", origin.section, origin.rule_index);
    }
    escape(&text)
}

fn pod_text(endpoint: &Endpoint) -> String {
    let text = endpoint.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name));
    text.map_or_else(|| "-".to_owned(), |text| escape(&text))
}

fn state_text(state: i32) -> String {
    EndpointState::try_from(state).map_or_else(
        |unknown| unknown.0.to_string(),
        |state| state.as_str_name().to_ascii_lowercase().replace('_', "-"),
    )
}

/// How far the endpoint is with its policies, and whether they are enforced.
fn policy_text(endpoint: &Endpoint) -> String {
    let status = PolicyStatus::try_from(endpoint.policy_status).unwrap_or_default();
    let text = match status {
        PolicyStatus::Unspecified => "unknown",
        PolicyStatus::None => "none",
        PolicyStatus::Realized => "realized",
        PolicyStatus::Outdated => "outdated",
        PolicyStatus::Closed => "closed",
    };
    if endpoint.audit { format!("{text}, audit") } else { text.to_owned() }
}

/// Entries of the policy map, and how many it can hold.
fn entries_text(endpoint: &Endpoint) -> String {
    match endpoint.policy_entries_max {
        0 => endpoint.policy_entries.to_string(),
        max => format!("{}/{max}", endpoint.policy_entries),
    }
}

const fn enforced_text(enforced: bool) -> &'static str {
    if enforced { "enforced" } else { "open" }
}

/// Name of an IP protocol.
pub(crate) fn protocol_text(protocol: u32) -> String {
    let name = match protocol {
        0 => "any",
        1 => "icmp",
        2 => "igmp",
        6 => "tcp",
        17 => "udp",
        58 => "icmpv6",
        112 => "vrrp",
        132 => "sctp",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// `80`, `1-2` or `any`.
pub(crate) fn port_text(first: u32, last: u32) -> String {
    match (first, last) {
        (0, 65_535) => "any".to_owned(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests;
