//! The pods: their namespaces, their endpoints, and the processes that run their workloads.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::join_all;
use nix::mount::{MntFlags, umount2};
use specola_proto::specola::v1 as api;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::agent::open_log;
use super::shared::Shared;
use super::{names, tail};
use crate::admin::{Admin, state_name};
use crate::place::Place;
use crate::spec::PodSpec;
use crate::state::{Node, Pod};
use crate::workload::run::{GO, IDLE, LISTENING, STOP};
use crate::workload::{Workload, client};
use crate::{POD_DEVICE, cgroup, links, netns};

/// The pods of a sandbox, by `namespace/name`.
pub(super) struct Pods {
    shared: Arc<Shared>,
    processes: BTreeMap<String, Process>,
    released: bool,
}

/// The process of one pod's workloads.
struct Process {
    namespace: String,
    name: String,
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    has_client: bool,
    grace: Duration,
}

impl Pods {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, processes: BTreeMap::new(), released: false }
    }

    /// Makes the pod's namespace, control group and files.
    pub(super) fn prepare(&self, spec: &PodSpec) -> anyhow::Result<()> {
        let layout = self.shared.layout();
        let cluster = self.shared.cluster();
        let node = cluster.node(&spec.node).with_context(|| format!("no node {}", spec.node))?;
        let pod = describe(layout, node, spec);
        fs::create_dir_all(&pod.directory)
            .with_context(|| format!("cannot make {}", pod.directory.display()))?;
        cgroup::create(&pod.cgroup)?;
        netns::create(&pod.netns)?;
        links::prepare_pod(&pod.netns).with_context(|| format!("pod {}", pod.full_name()))?;
        self.shared.update(|cluster| cluster.pods.push(pod))
    }

    /// Has the node's agent wire the pod and waits until its policy is in force.
    pub(super) async fn wire(&self, spec: &PodSpec) -> anyhow::Result<()> {
        let cluster = self.shared.cluster();
        let node = cluster.node(&spec.node).with_context(|| format!("no node {}", spec.node))?;
        let request = api::AddEndpointRequest {
            container_id: container_id(&cluster.name, &spec.namespace, &spec.name),
            netns: self.shared.layout().pod_netns(&spec.namespace, &spec.name).display().to_string(),
            ifname: POD_DEVICE.to_owned(),
            pod: Some(api::PodRef { namespace: spec.namespace.clone(), name: spec.name.clone() }),
        };
        let added = async { Admin::connect(&node.admin_socket).await?.add_pod(request, WIRE_LIMIT).await };
        let endpoint = added.await.map_err(|error| {
            let (namespace, name) = (&spec.namespace, &spec.name);
            error.context(format!("pod {namespace}/{name} on node {}; {}", node.name, tail(&node.log)))
        })?;
        let ips = endpoint.ips.iter().filter_map(|text| text.split('/').next()?.parse().ok()).collect();
        self.shared.update_pod(&spec.namespace, &spec.name, |pod| {
            pod.ips = ips;
            pod.identity = endpoint.identity;
            pod.endpoint = endpoint.id;
            pod.state = state_name(endpoint.state()).to_owned();
        })
    }

    /// Starts the process of the pod's workloads; a pod that only idles has none.
    pub(super) fn launch(&mut self, spec: &PodSpec) -> anyhow::Result<()> {
        if spec.workloads.0.iter().all(|workload| *workload == Workload::Idle) {
            return self
                .shared
                .update_pod(&spec.namespace, &spec.name, |pod| pod.workload_state = "idle".to_owned());
        }
        let cluster = self.shared.cluster();
        let pod =
            cluster.pod(&spec.namespace, &spec.name).context("a pod is prepared before it is launched")?;
        let place = Place {
            cgroup: pod.cgroup.clone(),
            netns: pod.netns.clone(),
            names: Some(pod.directory.clone()),
        };
        let mut command = place.command(self.shared.program());
        command.arg(self.shared.program()).args(["sandbox", "workload", "--namespace", &pod.namespace]);
        command
            .args(["--pod", &pod.name])
            .arg("--journal")
            .arg(pod.journal())
            .arg("--")
            .arg(&spec.annotation);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(open_log(&pod.log())?);
        let mut child =
            command.spawn().with_context(|| format!("cannot start the workload of {}", pod.full_name()))?;
        let (commands, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(commands), Some(answers)) = (commands, answers) else { bail!("a piped child has pipes") };
        let pid = child.id();
        self.processes.insert(
            pod.full_name(),
            Process {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                child,
                commands,
                answers: BufReader::new(answers).lines(),
                has_client: spec.workloads.has_client(),
                grace: client::grace(&spec.workloads.0) + SPARE,
            },
        );
        self.shared.update_pod(&spec.namespace, &spec.name, |pod| {
            pod.pid = pid;
            pod.workload_state = "running".to_owned();
        })
    }

    /// Waits until every server is bound.
    pub(super) async fn wait_listening(&mut self) -> anyhow::Result<()> {
        let cluster = self.shared.cluster();
        for (full_name, process) in &mut self.processes {
            process.expect(LISTENING, LISTEN_LIMIT).await.map_err(|error| {
                let log = cluster.pod(&process.namespace, &process.name).map(|pod| tail(&pod.log()));
                error.context(format!("the workload of {full_name}; {}", log.unwrap_or_default()))
            })?;
        }
        Ok(())
    }

    /// Lets the clients begin.
    pub(super) async fn release(&mut self) -> anyhow::Result<()> {
        self.released = true;
        for (full_name, process) in &mut self.processes {
            process.tell(GO).await.with_context(|| format!("the workload of {full_name}"))?;
        }
        Ok(())
    }

    /// Ends the clients after their current connection.
    pub(super) async fn quiesce(&mut self) -> anyhow::Result<()> {
        self.released = false;
        let clients = self.processes.iter_mut().filter(|(_, process)| process.has_client);
        let stopped = join_all(clients.map(|(full_name, process)| async move {
            process.tell(STOP).await.with_context(|| format!("the workload of {full_name}"))?;
            process.expect(IDLE, process.grace).await.with_context(|| format!("the workload of {full_name}"))
        }));
        stopped.await.into_iter().collect()
    }

    /// Adds a pod to the running cluster.
    pub(super) async fn add(&mut self, spec: PodSpec) -> anyhow::Result<()> {
        if self.shared.cluster().pod(&spec.namespace, &spec.name).is_some() {
            bail!("pod {}/{} exists; delete it first", spec.namespace, spec.name);
        }
        self.prepare(&spec)?;
        self.wire(&spec).await?;
        names::write_all(&self.shared.cluster())?;
        self.launch(&spec)?;
        let full_name = format!("{}/{}", spec.namespace, spec.name);
        if let Some(process) = self.processes.get_mut(&full_name) {
            process
                .expect(LISTENING, LISTEN_LIMIT)
                .await
                .with_context(|| format!("the workload of {full_name}"))?;
            if self.released {
                process.tell(GO).await?;
            }
        }
        Ok(())
    }

    /// Removes a pod from the running cluster.
    pub(super) async fn remove(&mut self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let cluster = self.shared.cluster();
        let pod = cluster.pod(namespace, name).with_context(|| format!("no pod {namespace}/{name}"))?;
        self.processes.remove(&pod.full_name());
        cgroup::destroy(&pod.cgroup, KILL_LIMIT)?;
        let node = cluster.node(&pod.node).with_context(|| format!("no node {}", pod.node))?;
        let id = container_id(&cluster.name, namespace, name);
        Admin::connect(&node.admin_socket).await?.remove_pod(id).await?;
        umount2(&pod.netns, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", pod.netns.display()))?;
        fs::remove_file(&pod.netns).with_context(|| format!("cannot remove {}", pod.netns.display()))?;
        fs::remove_dir_all(&pod.directory)
            .with_context(|| format!("cannot remove {}", pod.directory.display()))?;
        self.shared.update(|cluster| {
            cluster.pods.retain(|pod| (&*pod.namespace, &*pod.name) != (namespace, name))
        })?;
        names::write_all(&self.shared.cluster())
    }

    /// Notes workloads that ended.
    pub(super) fn watch(&mut self) -> anyhow::Result<()> {
        let mut ended = Vec::new();
        for (full_name, process) in &mut self.processes {
            if let Some(status) =
                process.child.try_wait().with_context(|| format!("cannot watch {full_name}"))?
            {
                ended.push((full_name.clone(), status));
            }
        }
        for (full_name, status) in ended {
            eprintln!("{} the workload of {full_name} ended with {status}", jiff::Timestamp::now());
            if let Some(process) = self.processes.remove(&full_name) {
                self.shared.update_pod(&process.namespace, &process.name, |pod| {
                    pod.pid = None;
                    pod.workload_state = format!("ended with {status}");
                })?;
            }
        }
        Ok(())
    }

    /// Lets all workloads end: the end of their input asks them to.
    pub(super) fn stop(&mut self) {
        self.processes.clear();
    }
}

impl Process {
    async fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        let line = format!("{command}\n");
        self.commands.write_all(line.as_bytes()).await.context("it takes no commands any more")
    }

    async fn expect(&mut self, word: &str, limit: Duration) -> anyhow::Result<()> {
        let Ok(answer) = timeout(limit, self.answers.next_line()).await else {
            bail!("it does not say {word:?} for {} s", limit.as_secs());
        };
        match answer.context("cannot read its answer")? {
            Some(line) if line == word => Ok(()),
            Some(line) => bail!("it says {line:?} where {word:?} is expected"),
            None => bail!("it ended"),
        }
    }
}

fn describe(layout: &crate::layout::Layout, node: &Node, spec: &PodSpec) -> Pod {
    let (namespace, name) = (&spec.namespace, &spec.name);
    Pod {
        namespace: namespace.clone(),
        name: name.clone(),
        node: spec.node.clone(),
        ips: Vec::new(),
        identity: 0,
        endpoint: 0,
        state: "creating".to_owned(),
        pid: None,
        workload: spec.annotation.clone(),
        workload_state: "waiting".to_owned(),
        netns: layout.pod_netns(namespace, name),
        cgroup: node.cgroup.join(format!("{namespace}_{name}")),
        directory: layout.pod(namespace, name),
    }
}

/// What the agent knows the pod's network namespace by.
fn container_id(sandbox: &str, namespace: &str, name: &str) -> String {
    format!("{sandbox}_{namespace}_{name}")
}

const WIRE_LIMIT: Duration = Duration::from_secs(30);
const LISTEN_LIMIT: Duration = Duration::from_secs(10);
const KILL_LIMIT: Duration = Duration::from_secs(5);
const SPARE: Duration = Duration::from_secs(2);
