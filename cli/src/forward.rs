//! The relay of a Kubernetes cluster, through `kubectl port-forward`.

use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::Context as _;
use clap::Args;

use crate::target::SERVER;

/// Which cluster's relay is asked.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = SERVER)]
pub(crate) struct ForwardArgs {
    /// Ask the service hubble-relay of a Kubernetes cluster; needs kubectl.
    #[arg(long, short = 'P', conflicts_with_all = ["server", "sandbox"])]
    pub(crate) port_forward: bool,
    /// Port of this machine that leads there; 0 is any free one.
    #[arg(long, value_name = "PORT", default_value_t = 4245)]
    pub(crate) port_forward_port: u16,
    /// Context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub(crate) kube_context: Option<String>,
    /// Namespace of the relay.
    #[arg(long, value_name = "NAME", default_value = "kube-system")]
    pub(crate) kube_namespace: String,
    /// File of the kubeconfig [default: kubectl's own].
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// A running `kubectl port-forward`; it ends with this value.
#[derive(Debug)]
pub(crate) struct Forward {
    child: Child,
    /// Where the relay is reached.
    pub(crate) address: String,
}

impl ForwardArgs {
    /// Starts to forward.
    ///
    /// # Errors
    /// There is no kubectl, or it finds no relay.
    pub(crate) fn start(&self) -> anyhow::Result<Forward> {
        let port = self.service_port()?;
        let mut command = self.kubectl();
        command.args(["port-forward", "--address", "127.0.0.1", &format!("service/{SERVICE}")]);
        command.arg(format!("{}:{port}", self.port_forward_port)).stdout(Stdio::piped());
        let mut child = command.spawn().context(NO_KUBECTL)?;
        let lines = child.stdout.take().map(BufReader::new).context("kubectl has no output")?;
        let mut forward = Forward { child, address: String::new() };
        forward.address = forward.listening(lines)?;
        Ok(forward)
    }

    fn service_port(&self) -> anyhow::Result<u16> {
        let mut command = self.kubectl();
        command.args(["get", "service", SERVICE, "-o", "jsonpath={.spec.ports[0].port}"]);
        let output = command.output().context(NO_KUBECTL)?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.success(),
            "kubectl finds no service {SERVICE} in the namespace {}: {}; see --kube-namespace and --kube-context",
            self.kube_namespace,
            said.trim()
        );
        let port = String::from_utf8_lossy(&output.stdout);
        port.trim().parse().with_context(|| format!("the service {SERVICE} has no port: {port:?}"))
    }

    fn kubectl(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.stdin(Stdio::null()).args(["--namespace", &self.kube_namespace]);
        if let Some(context) = &self.kube_context {
            command.args(["--context", context]);
        }
        if let Some(file) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(file);
        }
        command
    }
}

impl Forward {
    /// Waits until kubectl listens; what it says later is of no interest.
    fn listening(&mut self, mut lines: BufReader<impl io::Read + Send + 'static>) -> anyhow::Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if lines.read_line(&mut line).context("cannot read what kubectl says")? == 0 {
                let status = self.child.wait().context("kubectl is gone")?;
                anyhow::bail!(
                    "kubectl port-forward ended with {status}; is the port free? see --port-forward-port"
                );
            }
            let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(" -> ").next());
            if let Some(address) = address {
                let address = address.trim().to_owned();
                thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
                return Ok(address);
            }
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // One that ended already is as good.
        let (Ok(()) | Err(_)) = self.child.kill();
        let (Ok(_) | Err(_)) = self.child.wait();
    }
}

/// Name of the relay's service.
const SERVICE: &str = "hubble-relay";
const NO_KUBECTL: &str = "cannot run kubectl; install it, or name the relay with --server";
