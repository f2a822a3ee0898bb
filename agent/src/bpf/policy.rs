//! Policy entries in force.

use serde::Serialize;
use specola_datapath::abi::endpoint::EndpointRecord;
use specola_datapath::abi::policy::{
    MAX_ENTRIES, PREFIX_FULL, PREFIX_PROTO, PolicyKey, PolicyValue, VALUE_AUDIT,
};

use super::{Dump, Fill, NamedCookie, NamedIdentity, NodeView, count, direction};

/// One entry of an endpoint's active policy trie.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyRow {
    /// Endpoint id.
    pub endpoint: u16,
    /// `namespace/name` of its pod, if known.
    pub pod: Option<String>,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// The peer; 0 = any.
    pub identity: NamedIdentity,
    /// IANA protocol number; 0 = any.
    pub protocol: u8,
    /// First destination port (ICMP: type).
    pub first_port: u16,
    /// Last destination port (ICMP: type).
    pub last_port: u16,
    /// `allow`, `deny` or `redirect`.
    pub action: &'static str,
    /// Whether a deny only counts as audited.
    pub audit: bool,
    /// Port of the proxy; 0 = none.
    pub proxy_port: u16,
    /// Authentication type; 0 = none.
    pub auth: u8,
    /// Higher wins.
    pub precedence: u32,
    /// The rules that made it.
    pub cookie: NamedCookie,
}

impl NodeView {
    /// The policies in force, of all endpoints or of one.
    ///
    /// # Errors
    /// A map cannot be read, or there is no such endpoint.
    pub fn policy(&self, endpoint: Option<u16>) -> anyhow::Result<Dump<PolicyRow>> {
        let mut dump = Dump { entries: Vec::new(), maps: Vec::new() };
        for (slot, record) in self.pinned.endpoints()? {
            if endpoint.is_some_and(|wanted| wanted != record.id) {
                continue;
            }
            let pod = self.names.pod(record.id);
            let trie = self.pinned.policy(slot, EndpointRecord::active(record.word))?;
            let name = pod.as_deref().map(|pod| format!(" ({pod})")).unwrap_or_default();
            let map = format!("policy of endpoint {}{name}", record.id);
            dump.maps.push(Fill { map, used: count(trie.len()), max: MAX_ENTRIES.into() });
            let mut rows: Vec<_> =
                trie.iter().map(|(key, value)| self.row(&record, &pod, key, value)).collect();
            rows.sort_by_key(|row| {
                (row.direction, row.identity.id, row.protocol, row.first_port, row.last_port)
            });
            dump.entries.extend(rows);
        }
        if let Some(endpoint) = endpoint.filter(|_| dump.maps.is_empty()) {
            anyhow::bail!(
                "the kernel has no endpoint {endpoint}; `specola bpf endpoint list` shows those it has"
            );
        }
        Ok(dump)
    }

    fn row(
        &self,
        record: &EndpointRecord,
        pod: &Option<String>,
        key: &PolicyKey,
        value: &PolicyValue,
    ) -> PolicyRow {
        let (first_port, last_port) = ports(key);
        let proxy_port = u16::from_be(value.proxy_port_be);
        PolicyRow {
            endpoint: record.id,
            pod: pod.clone(),
            direction: direction(key.egress != 0),
            identity: self.names.identity(key.identity),
            protocol: key.proto,
            first_port,
            last_port,
            action: match (value.is_deny(), proxy_port) {
                (true, _) => "deny",
                (false, 0) => "allow",
                (false, _) => "redirect",
            },
            audit: value.deny_plen & VALUE_AUDIT != 0,
            proxy_port,
            auth: value.auth,
            precedence: value.precedence,
            cookie: self.names.cookie(value.cookie),
        }
    }
}

/// The ports that a key matches.
fn ports(key: &PolicyKey) -> (u16, u16) {
    let bits = key.prefix_len.saturating_sub(PREFIX_PROTO).min(PREFIX_FULL - PREFIX_PROTO);
    let free = u16::MAX.checked_shr(bits).unwrap_or(0);
    let first = u16::from_be(key.dport_be) & !free;
    (first, first | free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_ranges_of_ports() {
        for (prefix_len, port, expected) in [
            (40, 0, (0, 65535)),
            (48, 0, (0, 65535)),
            (64, 443, (443, 443)),
            (63, 442, (442, 443)),
            (52, 0xf000, (0xf000, 0xffff)),
        ] {
            let key = PolicyKey { prefix_len, identity: 0, egress: 0, proto: 6, dport_be: u16::to_be(port) };
            assert_eq!(ports(&key), expected, "{prefix_len} {port}");
        }
    }
}
