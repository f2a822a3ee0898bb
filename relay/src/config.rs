//! Settings of a relay, as command line flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use specola_serve::TlsFiles;

use crate::dial::{ClientTls, Target};
use crate::discover::Source;

/// Settings of one relay.
#[derive(Clone, Debug, clap::Args)]
pub struct RelayConfig {
    /// Who names the peers: a peer service (unix:///path or host:port), or dns+host:port for all addresses of a DNS
    /// name. CLUSTER= before it puts that name before those of its nodes. May be given several times; what several
    /// name is one peer [default: the local agent's socket].
    #[arg(long, value_name = "[CLUSTER=]ADDRESS")]
    pub peer_service: Vec<Source>,
    /// Peers by name: NAME=ADDRESS, with commas; /TLS-NAME behind the address for TLS.
    #[arg(long, value_name = "NAME=ADDRESS", value_delimiter = ',', value_parser = peer)]
    pub peers: Vec<(String, Target)>,
    /// TCP address of the flow API.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:4245")]
    pub listen_address: SocketAddr,
    /// Unix socket of the flow API, besides.
    #[arg(long, value_name = "PATH")]
    pub listen_socket: Option<PathBuf>,
    /// TCP address of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen_address: Option<SocketAddr>,
    /// Name of this relay in its messages [default: the host's name].
    #[arg(long, default_value_t = host_name(), hide_default_value = true)]
    pub name: String,
    /// Flows that one answer may hold to bring them in order; beyond it the oldest leave.
    #[arg(long, value_name = "FLOWS", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..))]
    pub sort_buffer_len_max: u32,
    /// How long flows wait for older ones of other nodes at most, milliseconds. They wait no longer than flows are
    /// under way.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub sort_buffer_drain_timeout: u64,
    /// Memory that one answer may hold to bring flows in order, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub request_memory: u32,
    /// Time to connect to a peer, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub dial_timeout: u64,
    /// Authorities (PEM) of the peers' certificates, with commas; turns on TLS towards peers.
    #[arg(long, value_name = "FILE", value_delimiter = ',', help_heading = "TLS")]
    pub tls_hubble_server_ca_files: Vec<PathBuf>,
    /// Own certificate (PEM) towards peers.
    #[arg(long, value_name = "FILE", requires_all = ["tls_hubble_client_key_file", "tls_hubble_server_ca_files"], help_heading = "TLS")]
    pub tls_hubble_client_cert_file: Option<PathBuf>,
    /// Key (PEM) of that certificate.
    #[arg(long, value_name = "FILE", requires = "tls_hubble_client_cert_file", help_heading = "TLS")]
    pub tls_hubble_client_key_file: Option<PathBuf>,
    /// Name in the certificate of a peer service at a TCP address, and of peers from DNS.
    #[arg(long, value_name = "NAME", requires = "tls_hubble_server_ca_files", help_heading = "TLS")]
    pub tls_peer_service_name: Option<String>,
    /// Certificate (PEM) that clients see; without it the port is plaintext.
    #[arg(long, value_name = "FILE", requires = "tls_relay_server_key_file", help_heading = "TLS")]
    pub tls_relay_server_cert_file: Option<PathBuf>,
    /// Key (PEM) of that certificate.
    #[arg(long, value_name = "FILE", requires = "tls_relay_server_cert_file", help_heading = "TLS")]
    pub tls_relay_server_key_file: Option<PathBuf>,
    /// Authorities (PEM) of clients, which must have a certificate then.
    #[arg(
        long,
        value_name = "FILE",
        value_delimiter = ',',
        requires = "tls_relay_server_cert_file",
        help_heading = "TLS"
    )]
    pub tls_relay_client_ca_files: Vec<PathBuf>,
    /// Which log lines to write: a level, or target=level pairs.
    #[arg(long, default_value = "info", env = "SPECOLA_LOG")]
    pub log_filter: String,
}

impl RelayConfig {
    /// The sources of names.
    pub(crate) fn sources(&self) -> Vec<Source> {
        if self.peer_service.is_empty() && self.peers.is_empty() {
            return vec![Source::Service {
                cluster: None,
                address: "unix:///run/specola/observer.sock".to_owned(),
            }];
        }
        self.peer_service.clone()
    }

    pub(crate) fn client_tls(&self) -> Option<ClientTls> {
        let own = self.tls_hubble_client_cert_file.clone().zip(self.tls_hubble_client_key_file.clone());
        let authorities = self.tls_hubble_server_ca_files.clone();
        (!authorities.is_empty()).then_some(ClientTls { authorities, own })
    }

    pub(crate) fn server_tls(&self) -> Option<TlsFiles> {
        let (certificate, key) =
            self.tls_relay_server_cert_file.clone().zip(self.tls_relay_server_key_file.clone())?;
        let client_authorities = self.tls_relay_client_ca_files.clone();
        Some(TlsFiles { certificate, key, client_authorities, allow_tls12: false })
    }

    pub(crate) const fn dial_time(&self) -> Duration {
        Duration::from_millis(self.dial_timeout)
    }
}

fn peer(text: &str) -> Result<(String, Target), String> {
    let (name, address) = text
        .split_once('=')
        .filter(|(name, address)| !name.is_empty() && !address.is_empty())
        .ok_or_else(|| "use NAME=ADDRESS".to_owned())?;
    let is_path = address.starts_with("unix:") || address.starts_with('/');
    let (address, server_name) = match address.split_once('/') {
        Some((address, server_name)) if !is_path => (address, Some(server_name.to_owned())),
        _ => (address, None),
    };
    Ok((name.to_owned(), Target { address: address.to_owned(), server_name, renamed: false }))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "relay".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read() {
        let target = |address: &str, server_name: Option<&str>| Target {
            address: address.to_owned(),
            server_name: server_name.map(str::to_owned),
            renamed: false,
        };
        assert_eq!(peer("n1=10.0.0.1:1").unwrap().1, target("10.0.0.1:1", None));
        assert_eq!(peer("n1=10.0.0.1:1/n1.x").unwrap().1, target("10.0.0.1:1", Some("n1.x")));
        assert_eq!(peer("n1=unix:///a").unwrap().1, target("unix:///a", None));
        assert!(peer("10.0.0.1:1").is_err() && peer("=a").is_err());
    }
}
