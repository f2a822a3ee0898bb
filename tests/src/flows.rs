//! Flows as `specola observe -o json` prints them.

use serde_json::Value;

/// One flow, read from Hubble's JSON.
#[derive(Clone, Debug)]
pub struct Flow {
    json: Value,
}

impl Flow {
    /// Reads JSON lines; lines that carry no flow (lost events, node status) are left out.
    ///
    /// # Panics
    /// A line is no JSON.
    #[track_caller]
    pub fn parse_lines(text: &str) -> Vec<Self> {
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .filter_map(|mut line| line.get_mut("flow").map(Value::take))
            .map(|json| Self { json })
            .collect()
    }

    /// The whole message.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// `FORWARDED`, `DROPPED`, ...
    pub fn verdict(&self) -> &str {
        self.text("/verdict")
    }

    /// `POLICY_DENIED`, ... or nothing.
    pub fn drop_reason(&self) -> &str {
        self.text("/drop_reason_desc")
    }

    /// `namespace/pod` of the source, `/` when it is no pod.
    pub fn source_pod(&self) -> String {
        format!("{}/{}", self.text("/source/namespace"), self.text("/source/pod_name"))
    }

    /// `namespace/pod` of the destination, `/` when it is no pod.
    pub fn destination_pod(&self) -> String {
        format!("{}/{}", self.text("/destination/namespace"), self.text("/destination/pod_name"))
    }

    /// Whether it goes from one pod to the other.
    pub fn is_between(&self, source: &str, destination: &str) -> bool {
        self.source_pod() == source && self.destination_pod() == destination
    }

    /// Monitor message type: 1 drop, 4 trace, 5 policy verdict.
    pub fn event_type(&self) -> u64 {
        self.json.pointer("/event_type/type").and_then(Value::as_u64).unwrap_or(0)
    }

    /// `INGRESS` or `EGRESS`.
    pub fn direction(&self) -> &str {
        self.text("/traffic_direction")
    }

    /// Tri-state reply mark.
    pub fn is_reply(&self) -> Option<bool> {
        self.json.get("is_reply").and_then(Value::as_bool)
    }

    /// Destination port of TCP or UDP, 0 without.
    pub fn destination_port(&self) -> u64 {
        ["/l4/TCP/destination_port", "/l4/UDP/destination_port"]
            .iter()
            .find_map(|path| self.json.pointer(path).and_then(Value::as_u64))
            .unwrap_or(0)
    }

    /// Names of the policies in one of the four lists, such as `ingress_denied_by`.
    pub fn policies(&self, list: &str) -> Vec<&str> {
        let policies = self.json.get(list).and_then(Value::as_array);
        policies.into_iter().flatten().filter_map(|policy| policy["name"].as_str()).collect()
    }

    /// Text at a JSON pointer, empty when absent.
    pub fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or("")
    }

    /// One line for failure messages.
    pub fn line(&self) -> String {
        format!(
            "{} {} {} -> {} :{} type {} {} {} reply {:?} {}",
            self.text("/node_name"),
            self.text("/IP/source"),
            self.source_pod(),
            self.destination_pod(),
            self.destination_port(),
            self.event_type(),
            self.verdict(),
            self.drop_reason(),
            self.is_reply(),
            self.text("/Summary"),
        )
    }
}
