//! Where a command's answers come from: one server, or every node of a sandbox.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::authorize::{Authorize, BasicAuthArgs};
use crate::error::UsageError;
use crate::forward::{Forward, ForwardArgs};
use crate::tls::TlsArgs;

/// A connection to a server.
pub(crate) type Connection = InterceptedService<Channel, Authorize>;

/// Unix socket of the local agent's flow API.
const OBSERVER_SOCKET: &str = "/run/specola/observer.sock";
/// Unix socket of the local agent's admin API.
const ADMIN_SOCKET: &str = "/run/specola/admin.sock";

/// A server that vanished without a word is noticed after a few of these.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// Which flow servers to ask.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = SERVER)]
pub(crate) struct TargetArgs {
    /// Flow server: unix:///path or host:port [default: the local agent's socket].
    #[arg(long, value_name = "ADDRESS", conflicts_with = "sandbox")]
    pub(crate) server: Option<String>,
    /// All nodes of this sandbox.
    #[arg(long, visible_alias = "name", value_name = "NAME")]
    pub(crate) sandbox: Option<String>,
    /// Time to wait for a connection.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration::<Timeout>)]
    pub(crate) timeout: Timeout,
    /// Time to wait for an answer that is no stream.
    #[arg(long, value_name = "DURATION", default_value = "12s", value_parser = parse_duration::<RequestTimeout>)]
    pub(crate) request_timeout: RequestTimeout,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) auth: BasicAuthArgs,
    #[command(flatten)]
    pub(crate) forward: ForwardArgs,
    /// Configuration file [default: config.yaml in $XDG_CONFIG_HOME/specola or ~/.config/specola].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print more about servers and nodes on stderr.
    #[arg(long, short = 'D')]
    pub(crate) debug: bool,
}

/// Heading of the options that the environment and the configuration file can set, too.
pub(crate) const SERVER: &str =
    "Server (also as variables SPECOLA_SERVER, HUBBLE_SERVER and so on, and in the configuration file)";

/// Which node agents to ask.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server")]
pub(crate) struct AdminArgs {
    /// Unix socket of the agent's admin API [default: /run/specola/admin.sock].
    #[arg(long, value_name = "PATH", conflicts_with = "sandbox")]
    pub(crate) admin_socket: Option<PathBuf>,
    /// All nodes of this sandbox.
    #[arg(long, visible_alias = "name", value_name = "NAME")]
    pub(crate) sandbox: Option<String>,
    /// Time to wait for a connection and for an answer.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration::<Timeout>)]
    pub(crate) timeout: Timeout,
}

/// A time to wait, 5 seconds unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Duration);

impl Default for Timeout {
    fn default() -> Self {
        Self(Duration::from_secs(5))
    }
}

/// A time to wait for an answer, 12 seconds unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestTimeout(pub(crate) Duration);

impl Default for RequestTimeout {
    fn default() -> Self {
        Self(Duration::from_secs(12))
    }
}

impl fmt::Display for RequestTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl From<Duration> for Timeout {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<Duration> for RequestTimeout {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// One server, with the name that messages use for it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Name of the sandbox's node, or the address as it was given.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: Address,
    /// Who asks.
    pub(crate) authorize: Authorize,
    /// What leads there, for as long as it is needed.
    #[expect(dead_code, reason = "held until the last user of the target is gone, which ends it")]
    pub(crate) forward: Option<Arc<Forward>>,
}

/// Where a server listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
    /// `host:port` with TLS.
    Tls(String, Box<TlsArgs>),
}

/// Both sockets of one node of a sandbox.
#[derive(Clone, Debug)]
pub(crate) struct NodeSockets {
    /// Name of the node.
    pub(crate) name: String,
    /// Socket of its flow API.
    pub(crate) observer: PathBuf,
    /// Socket of its admin API.
    pub(crate) admin: PathBuf,
}

impl TargetArgs {
    /// The flow servers to ask; several only with `--sandbox`.
    ///
    /// # Errors
    /// The address is wrong, or there is no such sandbox.
    pub(crate) fn resolve(&self) -> anyhow::Result<Vec<Target>> {
        if let Some(name) = &self.sandbox {
            let nodes = sandbox_nodes(name)?;
            return Ok(nodes.into_iter().map(|node| Target::unix(node.name, node.observer)).collect());
        }
        self.tls.check()?;
        if self.forward.port_forward {
            let forward = self.forward.start()?;
            let address = self.address(&forward.address)?;
            let authorize = self.auth.authorize(matches!(address, Address::Tls(..)))?;
            let name = forward.address.clone();
            return Ok(vec![Target { name, address, authorize, forward: Some(Arc::new(forward)) }]);
        }
        match &self.server {
            Some(server) => {
                let address = self.address(server)?;
                let authorize = self.auth.authorize(matches!(address, Address::Tls(..)))?;
                Ok(vec![Target { name: server.clone(), address, authorize, forward: None }])
            }
            None => {
                Ok(vec![Target::unix(format!("unix://{OBSERVER_SOCKET}"), PathBuf::from(OBSERVER_SOCKET))])
            }
        }
    }
}

impl TargetArgs {
    /// The address with what the TLS options say.
    fn address(&self, text: &str) -> Result<Address, UsageError> {
        let secure = ["tls://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        match secure.unwrap_or(text).parse()? {
            Address::Tcp(address) if secure.is_some() || self.tls.tls => {
                Ok(Address::Tls(address, Box::new(self.tls.clone())))
            }
            Address::Unix(_) if secure.is_some() || self.tls.tls => {
                Err(UsageError::text(format!("server {text:?}: a unix socket has no TLS; leave out --tls")))
            }
            address => Ok(address),
        }
    }
}

impl AdminArgs {
    /// The agents to ask; several only with `--sandbox`.
    ///
    /// # Errors
    /// There is no such sandbox.
    pub(crate) fn resolve(&self) -> anyhow::Result<Vec<Target>> {
        if let Some(name) = &self.sandbox {
            let nodes = sandbox_nodes(name)?;
            return Ok(nodes.into_iter().map(|node| Target::unix(node.name, node.admin)).collect());
        }
        let socket = self.admin_socket.clone().unwrap_or_else(|| PathBuf::from(ADMIN_SOCKET));
        Ok(vec![Target::unix(socket.display().to_string(), socket)])
    }
}

impl Target {
    /// A server on a unix socket.
    pub(crate) fn unix(name: String, socket: PathBuf) -> Self {
        Self { name, address: Address::Unix(socket), authorize: Authorize::default(), forward: None }
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there; the text says what to do about it.
    pub(crate) async fn connect(&self, timeout: Timeout) -> anyhow::Result<Connection> {
        let uri = match &self.address {
            Address::Unix(path) => format!("unix://{}", path.display()),
            Address::Tcp(address) | Address::Tls(address, _) => format!("http://{address}"),
        };
        let endpoint = Endpoint::from_shared(uri)
            .with_context(|| format!("{} is no address of a server", self.name))?
            .connect_timeout(timeout.0)
            .tcp_keepalive(Some(TCP_KEEPALIVE));
        let connect = async {
            match &self.address {
                Address::Tls(address, tls) => tls.connect(address, endpoint).await,
                _ => Ok(endpoint.connect().await?),
            }
        };
        let cause = match tokio::time::timeout(timeout.0, connect).await {
            Ok(Ok(channel)) => return Ok(InterceptedService::new(channel, self.authorize.clone())),
            Ok(Err(error)) => root_cause(error.as_ref()),
            Err(_elapsed) => format!("no answer within {timeout}"),
        };
        Err(anyhow::anyhow!("cannot connect to {}: {cause}; {}", self.name, self.remedy()))
    }

    /// What a user can do when nobody answers.
    fn remedy(&self) -> &'static str {
        match &self.address {
            Address::Unix(path) if path == Path::new(OBSERVER_SOCKET) => {
                "start `specola agent` or `specola sandbox up FILE`, or name a server with --server or --sandbox"
            }
            Address::Unix(path) if path == Path::new(ADMIN_SOCKET) => {
                "start `specola agent` or `specola sandbox up FILE` as root, or name an agent with --admin-socket or \
                 --sandbox"
            }
            Address::Unix(_) => "see that the agent runs and that you may open its socket",
            Address::Tcp(_) => {
                "see that the server runs, that the address is right, and whether it wants --tls"
            }
            Address::Tls(..) => {
                "see that the server runs with TLS, and that --tls-ca-cert-files and --tls-server-name are right"
            }
        }
    }
}

impl std::str::FromStr for Address {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Self, UsageError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(invalid(text)) } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        let bare = ["tcp://", "http://", "dns:///", "passthrough:///"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .unwrap_or(text);
        let (host, port) = bare.rsplit_once(':').ok_or_else(|| invalid(text))?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let host_is_fine = !host.is_empty() && !host.contains('/') && (bracketed || !host.contains(':'));
        let port_is_fine = port.parse::<std::num::NonZeroU16>().is_ok();
        if host_is_fine && port_is_fine { Ok(Self::Tcp(bare.to_owned())) } else { Err(invalid(text)) }
    }
}

fn invalid(text: &str) -> UsageError {
    UsageError::text(format!("server {text:?} is no address; use host:port, [v6]:port or unix:///path"))
}

/// The innermost cause: the layers above it only repeat it.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The sockets of every node of a sandbox.
///
/// # Errors
/// There is no such sandbox, or it has no nodes.
pub(crate) fn sandbox_nodes(name: &str) -> anyhow::Result<Vec<NodeSockets>> {
    let cluster = specola_sandbox::client::load(Some(name))?;
    anyhow::ensure!(
        !cluster.nodes.is_empty(),
        "sandbox {name} has no nodes; `specola sandbox ps` shows its state"
    );
    let sockets = |node: specola_sandbox::Node| NodeSockets {
        name: node.name,
        observer: node.observer_socket,
        admin: node.admin_socket,
    };
    Ok(cluster.nodes.into_iter().map(sockets).collect())
}

/// Reads a duration such as `5s`, `500ms` or `1m30s`.
///
/// # Errors
/// It has another form, or is not above zero.
pub(crate) fn parse_duration<T: From<Duration>>(text: &str) -> Result<T, String> {
    let nanos = crate::observe::go_duration(text).filter(|nanos| *nanos > 0);
    let nanos = nanos.and_then(|nanos| u64::try_from(nanos).ok());
    nanos
        .map(|nanos| Duration::from_nanos(nanos).into())
        .ok_or_else(|| "use a duration such as 5s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, address) in [
            ("unix:///run/x.sock", Address::Unix("/run/x.sock".into())),
            ("unix:relative.sock", Address::Unix("relative.sock".into())),
            ("/run/x.sock", Address::Unix("/run/x.sock".into())),
            ("localhost:4245", Address::Tcp("localhost:4245".to_owned())),
            ("[::1]:4244", Address::Tcp("[::1]:4244".to_owned())),
            ("dns:///relay:80", Address::Tcp("relay:80".to_owned())),
        ] {
            assert_eq!(text.parse::<Address>().unwrap(), address, "{text}");
        }
    }

    #[test]
    fn tls_is_for_tcp() {
        let with = |tls| TargetArgs { tls: TlsArgs { tls, ..TlsArgs::default() }, ..TargetArgs::default() };
        for (tls, text, address) in [
            (false, "relay:80", "tcp"),
            (true, "relay:443", "tls"),
            (false, "tls://relay:443", "tls"),
            (false, "unix:///x.sock", "unix"),
        ] {
            let kind = match with(tls).address(text).unwrap() {
                Address::Unix(_) => "unix",
                Address::Tcp(_) => "tcp",
                Address::Tls(address, _) => {
                    assert_eq!(address, "relay:443");
                    "tls"
                }
            };
            assert_eq!(kind, address, "{text}");
        }
        let refused = with(true).address("unix:///x.sock").unwrap_err().to_string();
        assert!(refused.contains("a unix socket has no TLS"), "{refused}");
    }

    #[test]
    fn other_addresses_are_refused() {
        for (text, says) in [
            ("localhost", "use host:port"),
            ("localhost:", "use host:port"),
            ("localhost:0", "use host:port"),
            ("localhost:70000", "use host:port"),
            (":4245", "use host:port"),
            ("::1:4244", "use host:port"),
            ("a/b:1", "use host:port"),
            ("unix://", "use host:port"),
            ("", "use host:port"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
