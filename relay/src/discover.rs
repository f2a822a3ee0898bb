//! Where the names of peers come from: peer services, a list, DNS.

use std::str::FromStr;
use std::time::Duration;

use specola_lifecycle::Drain;
use specola_proto::peer::{
    ChangeNotification, ChangeNotificationType, NotifyRequest, peer_client::PeerClient,
};
use tokio::time::timeout;

use crate::dial::{Link, Target};
use crate::pool::{Pool, Targets, jittered};

/// A source of names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A peer service.
    Service {
        /// Put before names that have no cluster.
        cluster: Option<String>,
        /// `unix:///path` or `host:port`.
        address: String,
    },
    /// All addresses of a DNS name.
    Dns {
        /// Put before names.
        cluster: Option<String>,
        /// `host:port`.
        address: String,
    },
}

/// A peer service as given on the command line is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} names no peers; use unix:///path, host:port or dns+host:port, after CLUSTER= if it is another cluster's"
)]
pub struct InvalidSource(String);

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let invalid = || InvalidSource(text.to_owned());
        let (cluster, address) = match text.split_once('=') {
            Some((cluster, address)) if !cluster.is_empty() && !cluster.contains('/') => {
                (Some(cluster.to_owned()), address)
            }
            Some(_) => return Err(invalid()),
            None => (None, text),
        };
        let has_port = |address: &str| {
            address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(address) = address.strip_prefix("dns+") {
            return if has_port(address) {
                Ok(Self::Dns { cluster, address: address.to_owned() })
            } else {
                Err(invalid())
            };
        }
        let is_path = address.starts_with("unix:") || address.starts_with('/');
        if !is_path && !has_port(address) {
            return Err(invalid());
        }
        Ok(Self::Service { cluster, address: address.to_owned() })
    }
}

impl Source {
    /// Follows the names until the drain.
    pub(crate) async fn follow(self, index: usize, pool: Pool, server_name: Option<String>, drain: Drain) {
        tokio::select! {
            () = drain.signalled() => {}
            () = self.run(index, &pool, server_name) => {}
        }
    }

    async fn run(self, index: usize, pool: &Pool, server_name: Option<String>) {
        match self {
            Self::Service { cluster, address } => {
                let server_name =
                    server_name.filter(|_| !address.starts_with("unix:") && !address.starts_with('/'));
                let target = Target { server_name, address, renamed: false };
                let mut pause = FIRST_PAUSE;
                loop {
                    let mut heard = false;
                    let reason = follow_service(index, pool, &target, cluster.as_deref(), &mut heard).await;
                    pool.set_connected(index, false);
                    tracing::warn!(address = target.address, reason, "the peer service does not answer");
                    pause = if heard { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                    tokio::time::sleep(jittered(pause)).await;
                }
            }
            Self::Dns { cluster, address } => loop {
                match timeout(DNS_TIME, tokio::net::lookup_host(&address)).await {
                    Ok(Ok(found)) => {
                        let targets = found.map(|at| {
                            let target = Target {
                                address: at.to_string(),
                                server_name: server_name.clone(),
                                renamed: false,
                            };
                            (name_of(cluster.as_deref(), &at.to_string()), target)
                        });
                        pool.update(index, targets.collect());
                        pool.set_connected(index, true);
                    }
                    Ok(Err(error)) => tracing::warn!(address, %error, "look up peers; those known stay"),
                    Err(_slow) => tracing::warn!(address, "DNS does not answer; known peers stay"),
                }
                tokio::time::sleep(jittered(DNS_INTERVAL)).await;
            },
        }
    }
}

/// Name of a peer: with the cluster before it, unless it has one.
fn name_of(cluster: Option<&str>, name: &str) -> String {
    match cluster {
        Some(cluster) if !name.contains('/') => format!("{cluster}/{name}"),
        _ => name.to_owned(),
    }
}

/// Takes over what the service says; returns why it ended.
async fn follow_service(
    index: usize,
    pool: &Pool,
    target: &Target,
    cluster: Option<&str>,
    heard: &mut bool,
) -> String {
    let (link, connection) = match pool.dialer().dial(target).await {
        Ok(dialed) => dialed,
        Err(error) => return error.to_string(),
    };
    let mut client = PeerClient::with_origin(link, Link::origin());
    let follow = async {
        let mut changes = client.notify(NotifyRequest {}).await?.into_inner();
        let mut targets = Targets::new();
        let mut is_first = true;
        loop {
            // The peers that there are come at once; until then those of the last connection stay.
            let pause = if is_first { FIRST_ANSWERS } else { Duration::MAX };
            match timeout(pause, changes.message()).await {
                Ok(Ok(Some(change))) => {
                    *heard = true;
                    if targets.len() < MAX_PEERS || change.r#type() != ChangeNotificationType::PeerAdded {
                        apply(&mut targets, change, cluster);
                    } else {
                        tracing::warn!(peer = change.name, "more than {MAX_PEERS} peers: left out");
                    }
                    if !is_first {
                        pool.update(index, targets.clone());
                    }
                }
                Ok(Ok(None)) => return Ok("it ended the stream".to_owned()),
                Ok(Err(status)) => return Err(status),
                Err(_quiet) => {
                    is_first = false;
                    pool.update(index, targets.clone());
                    pool.set_connected(index, true);
                }
            }
        }
    };
    let ended: Result<String, tonic::Status> = tokio::select! {
        ended = follow => ended,
        ended = connection => Ok(ended.map_or_else(|error| error.to_string(), |()| "it closed the connection".to_owned())),
    };
    ended.unwrap_or_else(|status| status.to_string())
}

fn apply(targets: &mut Targets, change: ChangeNotification, cluster: Option<&str>) {
    let name = name_of(cluster, &change.name);
    match change.r#type() {
        ChangeNotificationType::PeerDeleted => {
            targets.remove(&name);
        }
        ChangeNotificationType::PeerAdded | ChangeNotificationType::PeerUpdated => {
            let server_name = change.tls.map(|tls| tls.server_name);
            let renamed = name != change.name;
            targets.insert(name, Target { address: change.address, server_name, renamed });
        }
        ChangeNotificationType::Unknown => {}
    }
}

/// Peers of one source.
const MAX_PEERS: usize = 10_000;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A pause in the stream after which the peers that there are have all come.
const FIRST_ANSWERS: Duration = Duration::from_millis(50);
const DNS_INTERVAL: Duration = Duration::from_secs(10);
const DNS_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read() {
        let service = |cluster: Option<&str>, address: &str| {
            Ok(Source::Service { cluster: cluster.map(str::to_owned), address: address.to_owned() })
        };
        for (text, expected) in [
            ("unix:///x.sock", service(None, "unix:///x.sock")),
            ("east=unix:///x.sock", service(Some("east"), "unix:///x.sock")),
            ("peer:443", service(None, "peer:443")),
            (
                "east=dns+nodes:4244",
                Ok(Source::Dns { cluster: Some("east".to_owned()), address: "nodes:4244".to_owned() }),
            ),
            ("", Err(InvalidSource(String::new()))),
            ("=a:1", Err(InvalidSource("=a:1".to_owned()))),
            ("peer", Err(InvalidSource("peer".to_owned()))),
            ("dns+peer", Err(InvalidSource("dns+peer".to_owned()))),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn names_get_a_cluster_only_when_they_have_none() {
        assert_eq!(name_of(Some("east"), "n1"), "east/n1");
        assert_eq!(name_of(Some("east"), "west/n1"), "west/n1");
        assert_eq!(name_of(None, "n1"), "n1");
    }
}
