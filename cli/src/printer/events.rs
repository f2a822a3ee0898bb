//! Agent and debug events as text, in Hubble's words.

use std::io::{self, Write};

use specola_labels::NumericIdentity;
use specola_proto::flow::agent_event::Notification;
use specola_proto::flow::{AgentEvent, AgentEventType, DebugEventType, Endpoint};
use specola_proto::observer::{GetAgentEventsResponse, GetDebugEventsResponse};

use super::{Form, Printer, escape};
use crate::observe::Layout;

impl<O: Write, E: Write> Printer<O, E> {
    /// Prints an agent event.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(super) fn print_agent_event(&mut self, response: &GetAgentEventsResponse) -> io::Result<()> {
        if self.style.form == Form::Json {
            return self.print_json(response);
        }
        let Some(event) = &response.agent_event else { return Ok(()) };
        let (kind, details) = agent_event(event, self.style.time);
        let (time, node) = (self.style.time.format(response.time), escape(&response.node_name));
        if self.style.form == Form::Compact {
            let node = self.bracketed(&node);
            return writeln!(self.out, "{time}{node}: {kind} ({details})");
        }
        self.print_fields(&[("TIMESTAMP", time), ("NODE", node), ("TYPE", kind), ("DETAILS", details)])
    }

    /// Prints a debug event.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(super) fn print_debug_event(&mut self, response: &GetDebugEventsResponse) -> io::Result<()> {
        if self.style.form == Form::Json {
            return self.print_json(response);
        }
        let Some(event) = &response.debug_event else { return Ok(()) };
        let (time, node) = (self.style.time.format(response.time), escape(&response.node_name));
        let from = source(event.source.as_ref());
        let kind = DebugEventType::try_from(event.r#type)
            .map_or_else(|unknown| unknown.0.to_string(), |kind| kind.as_str_name().to_owned());
        let absent = || "N/A".to_owned();
        let mark = event.hash.map_or_else(absent, |hash| format!("{hash:#x}"));
        let cpu = event.cpu.map_or_else(absent, |cpu| format!("{cpu:02}"));
        let message = escape(&event.message);
        match self.style.form {
            Form::Compact => {
                let node = self.bracketed(&node);
                writeln!(self.out, "{time}{node}: {from} {kind} MARK: {mark} CPU: {cpu} ({message})")
            }
            Form::Dict => self.print_fields(&[
                ("TIMESTAMP", time),
                ("NODE", node),
                ("FROM", from),
                ("TYPE", kind),
                ("MARK", mark),
                ("CPU", cpu),
                ("MESSAGE", message),
            ]),
            _ => self.print_fields(&[
                ("TIMESTAMP", time),
                ("NODE", node),
                ("FROM", from),
                ("TYPE", kind),
                ("CPU/MARK", format!("{cpu} {mark}")),
                ("MESSAGE", message),
            ]),
        }
    }

    fn bracketed(&self, node: &str) -> String {
        if self.style.node_name { format!(" [{node}]") } else { String::new() }
    }
}

/// Type and details.
fn agent_event(event: &AgentEvent, time: Layout) -> (String, String) {
    let kind = AgentEventType::try_from(event.r#type)
        .map_or_else(|unknown| unknown.0.to_string(), |kind| kind.as_str_name().to_owned());
    let details =
        event.notification.as_ref().map_or_else(|| "UNKNOWN".to_owned(), |what| details(what, time));
    (kind, escape(&details))
}

fn details(notification: &Notification, time: Layout) -> String {
    let labels = |labels: &[String]| format!("labels: [{}]", labels.join(","));
    let mut parts = Vec::new();
    let mut add = |name: &str, value: &str| parts.push(format!("{name}: {value}"));
    match notification {
        Notification::Unknown(unknown) => {
            add("type", &unknown.r#type);
            add("notification", &unknown.notification);
        }
        Notification::AgentStart(start) => add("start time", &time.format(start.time)),
        Notification::PolicyUpdate(update) => {
            parts.push(labels(&update.labels));
            parts.push(format!("revision: {}, count: {}", update.revision, update.rule_count));
        }
        Notification::EndpointRegenerate(endpoint) => {
            parts.push(format!("id: {}, {}", endpoint.id, labels(&endpoint.labels)));
            if !endpoint.error.is_empty() {
                parts.push(format!("error: {}", endpoint.error));
            }
        }
        Notification::EndpointUpdate(endpoint) => {
            add("id", &endpoint.id.to_string());
            if !endpoint.namespace.is_empty() {
                add("namespace", &endpoint.namespace);
            }
            if !endpoint.pod_name.is_empty() {
                add("pod name", &endpoint.pod_name);
            }
        }
        Notification::IpcacheUpdate(entry) => {
            add("cidr", &entry.cidr);
            add("identity", &entry.identity.to_string());
            if let Some(old) = entry.old_identity {
                add("old identity", &old.to_string());
            }
            if !entry.host_ip.is_empty() {
                add("host ip", &entry.host_ip);
            }
            if !entry.old_host_ip.is_empty() {
                add("old host ip", &entry.old_host_ip);
            }
            add("encrypt key", &entry.encrypt_key.to_string());
        }
        Notification::ServiceUpsert(service) => add("id", &service.id.to_string()),
        Notification::ServiceDelete(service) => add("id", &service.id.to_string()),
    }
    parts.join(", ")
}

/// `ns/pod (ID: 10)`, `reserved:host (ID: 1)`, `N/A`.
fn source(endpoint: Option<&Endpoint>) -> String {
    let Some(endpoint) = endpoint else { return "N/A".to_owned() };
    let name = match (endpoint.pod_name.as_str(), NumericIdentity(endpoint.identity).reserved_name()) {
        ("", Some(name)) => format!("reserved:{name}"),
        ("", None) => return format!("N/A (ID: {})", endpoint.id),
        (pod, _) if endpoint.namespace.is_empty() => pod.to_owned(),
        (pod, _) => format!("{}/{pod}", endpoint.namespace),
    };
    escape(&format!("{name} (ID: {})", endpoint.id))
}
