//! The built-in workloads that a pod's annotation may name.
//!
//! `sandbox.specola.io/workload: "http-server port=8080; tcp-client target=db.shop:5432 rate=2"`

pub(crate) mod client;
pub(crate) mod journal;
pub(crate) mod run;
pub(crate) mod server;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The annotation that names a pod's workloads.
pub const ANNOTATION: &str = "sandbox.specola.io/workload";

/// The workloads of one pod, parsed from [`ANNOTATION`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Workloads(pub Vec<Workload>);

/// One built-in program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Workload {
    /// Answers every HTTP request with 200 and the pod's name.
    HttpServer { port: u16 },
    /// Asks for a URL at a rate, one connection per request.
    HttpClient { target: Target, path: String, pace: Pace },
    /// Sends back what it receives.
    TcpEcho { port: u16 },
    /// Connects at a rate, sends `bytes`, reads them back, closes.
    TcpClient { target: Target, bytes: usize, pace: Pace },
    /// Sends every datagram back.
    UdpEcho { port: u16 },
    /// Sends a datagram of `bytes` at a rate, from a new port each time, and waits for the answer.
    UdpClient { target: Target, bytes: usize, pace: Pace },
    /// Connects to one port after the other, again and again.
    PortScan { host: String, ports: Vec<u16>, pace: Pace },
    /// Does nothing.
    Idle,
}

/// Where a client connects to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    pub host: String,
    pub port: u16,
}

/// How a client repeats.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pace {
    /// Time between the starts of two connections.
    pub interval: Duration,
    /// How long a connection may take to be made, and to be answered.
    pub timeout: Duration,
    /// Ends after so many connections; `None` = never.
    pub count: Option<u64>,
    pub family: Family,
}

/// Which of a name's addresses a client takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    /// IPv4 where the name has one.
    Any,
    V4,
    V6,
}

impl Workloads {
    /// True when one of them makes connections.
    pub(crate) fn has_client(&self) -> bool {
        self.0.iter().any(Workload::is_client)
    }
}

impl Workload {
    /// True when it makes connections.
    pub(crate) fn is_client(&self) -> bool {
        matches!(
            self,
            Self::HttpClient { .. } | Self::TcpClient { .. } | Self::UdpClient { .. } | Self::PortScan { .. }
        )
    }
}

impl FromStr for Workloads {
    type Err = InvalidWorkload;

    fn from_str(text: &str) -> Result<Self, InvalidWorkload> {
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Workload {
    type Err = InvalidWorkload;

    fn from_str(text: &str) -> Result<Self, InvalidWorkload> {
        let mut words = text.split_whitespace();
        let kind = words.next().ok_or(InvalidWorkload::Empty)?;
        let mut options = Options::read(kind, words)?;
        let workload = match kind {
            "http-server" => Self::HttpServer { port: options.port("port")? },
            "tcp-echo" => Self::TcpEcho { port: options.port("port")? },
            "udp-echo" => Self::UdpEcho { port: options.port("port")? },
            "http-client" => {
                let (target, path) = options.url("url")?;
                Self::HttpClient { target, path, pace: options.pace(1)? }
            }
            "tcp-client" => Self::TcpClient {
                target: options.target("target")?,
                bytes: options.bytes()?,
                pace: options.pace(1)?,
            },
            "udp-client" => Self::UdpClient {
                target: options.target("target")?,
                bytes: options.bytes()?,
                pace: options.pace(1)?,
            },
            "port-scan" => Self::PortScan {
                host: options.needed("target")?,
                ports: options.ports("ports")?,
                pace: options.pace(10)?,
            },
            "idle" => Self::Idle,
            _ => return Err(InvalidWorkload::Kind(kind.to_owned())),
        };
        options.finish()?;
        Ok(workload)
    }
}

/// Why a workload annotation was refused.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidWorkload {
    #[error("workload is empty")]
    Empty,
    #[error(
        "unknown workload {0:?}; known are http-server, http-client, tcp-echo, tcp-client, udp-echo, \
         udp-client, port-scan, idle"
    )]
    Kind(String),
    #[error("workload {kind}: {word:?} is not of the form key=value")]
    NoOption { kind: String, word: String },
    #[error("workload {kind} needs {key}=")]
    Missing { kind: String, key: &'static str },
    #[error("workload {kind} does not know {key}=")]
    Unknown { kind: String, key: String },
    #[error("workload {kind}: {key}={value:?} is not {wanted}")]
    Value { kind: String, key: &'static str, value: String, wanted: &'static str },
}

struct Options {
    kind: String,
    pairs: Vec<(String, String)>,
}

impl Options {
    fn read<'a>(kind: &str, words: impl Iterator<Item = &'a str>) -> Result<Self, InvalidWorkload> {
        let mut pairs = Vec::new();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(InvalidWorkload::NoOption { kind: kind.to_owned(), word: word.to_owned() });
            };
            pairs.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { kind: kind.to_owned(), pairs })
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let position = self.pairs.iter().position(|(name, _)| name == key)?;
        Some(self.pairs.remove(position).1)
    }

    fn needed(&mut self, key: &'static str) -> Result<String, InvalidWorkload> {
        self.take(key).ok_or_else(|| InvalidWorkload::Missing { kind: self.kind.clone(), key })
    }

    fn invalid(&self, key: &'static str, value: &str, wanted: &'static str) -> InvalidWorkload {
        InvalidWorkload::Value { kind: self.kind.clone(), key, value: value.to_owned(), wanted }
    }

    fn port(&mut self, key: &'static str) -> Result<u16, InvalidWorkload> {
        let value = self.needed(key)?;
        parse_port(&value).ok_or_else(|| self.invalid(key, &value, "a port from 1 to 65535"))
    }

    fn target(&mut self, key: &'static str) -> Result<Target, InvalidWorkload> {
        let value = self.needed(key)?;
        parse_target(&value).ok_or_else(|| self.invalid(key, &value, "HOST:PORT"))
    }

    fn url(&mut self, key: &'static str) -> Result<(Target, String), InvalidWorkload> {
        let value = self.needed(key)?;
        parse_url(&value).ok_or_else(|| self.invalid(key, &value, "http://HOST[:PORT][/PATH]"))
    }

    fn ports(&mut self, key: &'static str) -> Result<Vec<u16>, InvalidWorkload> {
        let value = self.needed(key)?;
        parse_ports(&value)
            .ok_or_else(|| self.invalid(key, &value, "a list of ports and ranges, as 22,80-90"))
    }

    fn bytes(&mut self) -> Result<usize, InvalidWorkload> {
        let Some(value) = self.take("bytes") else { return Ok(64) };
        let bytes = value.parse().ok().filter(|bytes| (1..=65_000).contains(bytes));
        bytes.ok_or_else(|| self.invalid("bytes", &value, "a number from 1 to 65000"))
    }

    fn pace(&mut self, default_rate: u32) -> Result<Pace, InvalidWorkload> {
        let rate = match self.take("rate") {
            None => f64::from(default_rate),
            Some(value) => {
                let rate = value.parse().ok().filter(|rate| (0.01..=1000.0).contains(rate));
                rate.ok_or_else(|| self.invalid("rate", &value, "connections per second from 0.01 to 1000"))?
            }
        };
        let timeout = match self.take("timeout") {
            None => DEFAULT_TIMEOUT,
            Some(value) => {
                parse_seconds(&value).ok_or_else(|| self.invalid("timeout", &value, "a time as 0.8s"))?
            }
        };
        let count = match self.take("count") {
            None => None,
            Some(value) => {
                Some(value.parse().map_err(|_not_u64| self.invalid("count", &value, "a whole number"))?)
            }
        };
        let family = match self.take("family") {
            None => Family::Any,
            Some(value) if value == "4" => Family::V4,
            Some(value) if value == "6" => Family::V6,
            Some(value) => return Err(self.invalid("family", &value, "4 or 6")),
        };
        Ok(Pace { interval: Duration::from_secs_f64(1.0 / rate), timeout, count, family })
    }

    fn finish(self) -> Result<(), InvalidWorkload> {
        match self.pairs.into_iter().next() {
            None => Ok(()),
            Some((key, _)) => Err(InvalidWorkload::Unknown { kind: self.kind, key }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|&port| port > 0)
}

/// `HOST:PORT`, where an IPv6 address stands in brackets.
fn parse_target(text: &str) -> Option<Target> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then_some(())?;
    Some(Target { host: host.to_owned(), port: parse_port(port)? })
}

fn parse_url(text: &str) -> Option<(Target, String)> {
    let rest = text.strip_prefix("http://")?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let target = match parse_target(authority) {
        Some(target) => target,
        None if authority.contains(':') || authority.is_empty() => return None,
        None => Target { host: authority.to_owned(), port: 80 },
    };
    Some((target, path.to_owned()))
}

fn parse_ports(text: &str) -> Option<Vec<u16>> {
    let mut ports = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse_port(first)?, parse_port(last)?);
        (first <= last).then_some(())?;
        ports.extend(first..=last);
    }
    Some(ports)
}

fn parse_seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s').unwrap_or(text).parse().ok()?;
    (0.001..=60.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// Shorter than the first retransmission of a SYN, so that an attempt that is dropped is one dropped packet.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(800);

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: f64) -> Pace {
        Pace {
            interval: Duration::from_secs_f64(1.0 / rate),
            timeout: DEFAULT_TIMEOUT,
            count: None,
            family: Family::Any,
        }
    }

    fn target(host: &str, port: u16) -> Target {
        Target { host: host.to_owned(), port }
    }

    #[test]
    fn annotations_are_read() {
        let cases: [(&str, Vec<Workload>); 6] = [
            ("", vec![]),
            ("idle;", vec![Workload::Idle]),
            ("http-server port=8080", vec![Workload::HttpServer { port: 8080 }]),
            (
                "http-client url=http://backend.shop:8080 rate=5; tcp-echo port=1",
                vec![
                    Workload::HttpClient {
                        target: target("backend.shop", 8080),
                        path: "/".into(),
                        pace: pace(5.0),
                    },
                    Workload::TcpEcho { port: 1 },
                ],
            ),
            (
                "udp-client target=[fd00::1]:53 bytes=9 rate=0.5 family=6",
                vec![Workload::UdpClient {
                    target: target("fd00::1", 53),
                    bytes: 9,
                    pace: Pace { family: Family::V6, ..pace(0.5) },
                }],
            ),
            (
                "port-scan target=db.shop ports=22,80-82 timeout=0.1s count=4",
                vec![Workload::PortScan {
                    host: "db.shop".into(),
                    ports: vec![22, 80, 81, 82],
                    pace: Pace { timeout: Duration::from_millis(100), count: Some(4), ..pace(10.0) },
                }],
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(text.parse(), Ok(Workloads(wanted)), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_annotation_makes_it_panic(text in "(http-client|port-scan|udp-echo|idle)?[ a-z0-9=:;,./\\[\\]-]{0,60}") {
            _ = text.parse::<Workloads>();
        }
    }

    #[test]
    fn wrong_annotations_name_the_cause() {
        for (text, cause) in [
            ("ftp-server port=1", "unknown workload \"ftp-server\""),
            ("http-server", "needs port="),
            ("http-server port=0", "port=\"0\" is not a port"),
            ("http-server port", "not of the form key=value"),
            ("http-server port=80 x=1", "does not know x="),
            ("http-client url=https://a", "is not http://"),
            ("http-client url=http://:80/", "is not http://"),
            ("tcp-client target=a", "is not HOST:PORT"),
            ("tcp-client target=::1:80", "is not HOST:PORT"),
            ("tcp-client target=a:1 rate=0", "rate=\"0\""),
            ("tcp-client target=a:1 rate=NaN", "rate=\"NaN\""),
            ("tcp-client target=a:1 family=5", "is not 4 or 6"),
            ("port-scan target=a ports=9-3", "ports=\"9-3\""),
        ] {
            let error = text.parse::<Workloads>().expect_err(text).to_string();
            assert!(error.contains(cause), "{text:?} gave {error:?}");
        }
    }
}
