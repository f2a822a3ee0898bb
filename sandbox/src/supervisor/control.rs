//! The supervisor's control socket: one JSON request line, one JSON answer line per connection.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::spec::PodSpec;

/// What a command asks of the supervisor.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Lets the clients begin.
    Release,
    /// Ends the clients after their current connection; answered when all have.
    Quiesce,
    AddPod {
        pod: Box<NewPod>,
    },
    RemovePod {
        namespace: String,
        name: String,
    },
    /// Kills the agents, or that of one node; answered when they have ended.
    KillAgents {
        node: Option<String>,
    },
    /// Starts killed agents again; answered when they serve.
    StartAgents {
        node: Option<String>,
    },
}

/// A pod whose object is already in the desired directory.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct NewPod {
    pub namespace: String,
    pub name: String,
    pub node: String,
    pub annotation: String,
}

impl TryFrom<NewPod> for PodSpec {
    type Error = anyhow::Error;

    fn try_from(pod: NewPod) -> anyhow::Result<Self> {
        let workloads = pod.annotation.parse()?;
        let NewPod { namespace, name, node, annotation } = pod;
        Ok(Self { namespace, name, node, workloads, annotation })
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct Reply {
    error: Option<String>,
}

/// The listening end.
pub(super) struct Control {
    listener: UnixListener,
}

/// Where the answer to one request goes.
pub(super) struct Answer {
    stream: UnixStream,
}

impl Control {
    pub(super) fn listen(path: &Path) -> anyhow::Result<Self> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect {}", path.display()))?;
        Ok(Self { listener })
    }

    /// Waits for a caller. Cancel safe.
    pub(super) async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    eprintln!("cannot accept on the control socket: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Reads a caller's request; `None` for one that says nothing sensible.
    pub(super) async fn read(&self, mut stream: UnixStream) -> Option<(Request, Answer)> {
        match timeout(REQUEST_LIMIT, read_line::<Request>(&mut stream)).await {
            Ok(Ok(request)) => Some((request, Answer { stream })),
            Ok(Err(error)) => {
                eprintln!("refused a request on the control socket: {error:#}");
                Answer { stream }.send(Err(error)).await;
                None
            }
            Err(_elapsed) => None,
        }
    }
}

impl Answer {
    pub(super) async fn send(mut self, result: anyhow::Result<()>) {
        let reply = Reply { error: result.err().map(|error| format!("{error:#}")) };
        // A caller that went away does not want the answer.
        _ = timeout(REQUEST_LIMIT, write_line(&mut self.stream, &reply)).await;
    }
}

/// Asks the supervisor that listens at `path`.
///
/// # Errors
/// When none listens, or what it answers.
pub(crate) async fn call(path: &Path, request: &Request) -> anyhow::Result<()> {
    let stream = UnixStream::connect(path).await;
    let mut stream = stream.with_context(|| format!("no supervisor answers on {}", path.display()))?;
    write_line(&mut stream, request).await?;
    let reply: Reply = timeout(ANSWER_LIMIT, read_line(&mut stream))
        .await
        .map_err(|_elapsed| anyhow!("the supervisor does not answer for {} s", ANSWER_LIMIT.as_secs()))??;
    match reply.error {
        None => Ok(()),
        Some(error) => bail!(error),
    }
}

async fn read_line<T: for<'a> Deserialize<'a>>(stream: &mut UnixStream) -> anyhow::Result<T> {
    let mut line = String::new();
    BufReader::new(stream)
        .take(LONGEST_LINE)
        .read_line(&mut line)
        .await
        .context("cannot read the request")?;
    let value: Value = serde_json::from_str(&line).context("no JSON line")?;
    serde_json::from_value(value).context("not a known request")
}

async fn write_line(stream: &mut UnixStream, message: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await.context("cannot write to the control socket")
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_LINE: u64 = 1 << 20;
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Adding a pod may take as long as its endpoint.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
