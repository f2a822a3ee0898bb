//! `specola sandbox apply` and `delete`, which edit the directory that the agents watch; `kill` and `start`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::print;
use crate::client;
use crate::spec::{self, Object};
use crate::state::{Cluster, replace};
use crate::supervisor::{NewPod, Request};
use crate::up::Sandbox;

/// Adds or replaces the objects of a file.
pub(super) fn apply(name: Option<&str>, file: &Path) -> anyhow::Result<ExitCode> {
    let cluster = client::load(name)?;
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut objects = spec::read_objects(&file.display().to_string(), &text, cluster.agents.language())?;
    check_changeable(&cluster, &objects)?;
    for object in &mut objects {
        let pod = if object.kind == "Pod" { Some(new_pod(&cluster, object)?) } else { None };
        let path = cluster.desired_dir.join(object.file_name());
        let verb = if path.try_exists()? { "replaced" } else { "added" };
        replace(&path, object.yaml()?.as_bytes())?;
        if let Some(pod) = pod {
            let sandbox = Sandbox::find(Some(&cluster.name))?;
            sandbox.ask(&Request::AddPod { pod: Box::new(pod) }).with_context(|| object.to_string())?;
        }
        print(&format!("{object} {verb}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Kills the agent of a node, or all of them.
pub(super) fn kill(name: Option<&str>, node: Option<String>) -> anyhow::Result<ExitCode> {
    let done = format!("killed: {}\n", agents(node.as_deref()));
    Sandbox::find(name)?.ask(&Request::KillAgents { node })?;
    print(&done)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the agent of a node, or all of them.
pub(super) fn start(name: Option<&str>, node: Option<String>) -> anyhow::Result<ExitCode> {
    let done = format!("running: {}\n", agents(node.as_deref()));
    Sandbox::find(name)?.ask(&Request::StartAgents { node })?;
    print(&done)?;
    Ok(ExitCode::SUCCESS)
}

fn agents(node: Option<&str>) -> String {
    node.map_or_else(|| "all agents".to_owned(), |node| format!("the agent of node {node}"))
}

/// Removes objects by `KIND/NAMESPACE/NAME` or `KIND/NAME`.
pub(super) fn delete(name: Option<&str>, references: &[String]) -> anyhow::Result<ExitCode> {
    let cluster = client::load(name)?;
    for reference in references {
        let parts: Vec<&str> = reference.split('/').collect();
        let (kind, namespace, object) = match parts[..] {
            [kind, namespace, name] => (kind, Some(namespace), name),
            [kind, name] => (kind, None, name),
            _ => bail!("{reference:?} is neither KIND/NAMESPACE/NAME nor KIND/NAME"),
        };
        let kind = long_kind(kind);
        if kind == "node" {
            bail!("nodes of a running sandbox cannot be removed");
        }
        let path = cluster.desired_dir.join(spec::file_name(&kind, namespace, object));
        if !path.try_exists()? {
            bail!("no {reference} in {}", cluster.desired_dir.display());
        }
        if let ("pod", Some(namespace)) = (kind.as_str(), namespace) {
            let request = Request::RemovePod { namespace: namespace.to_owned(), name: object.to_owned() };
            Sandbox::find(Some(&cluster.name))?.ask(&request).with_context(|| reference.clone())?;
        }
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        print(&format!("{reference} removed\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The kind in lower case; the short names that kubectl has too.
fn long_kind(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    let long = match kind.as_str() {
        "cnp" | "ciliumnetworkpolicies" => "ciliumnetworkpolicy",
        "ccnp" | "ciliumclusterwidenetworkpolicies" => "ciliumclusterwidenetworkpolicy",
        "netpol" | "networkpolicies" => "networkpolicy",
        "po" | "pods" => "pod",
        "ns" | "namespaces" => "namespace",
        "no" | "nodes" => "node",
        _ => return kind,
    };
    long.to_owned()
}

fn check_changeable(cluster: &Cluster, objects: &[Object]) -> anyhow::Result<()> {
    for object in objects {
        if object.kind == "Node" {
            bail!("{object}: nodes of a running sandbox cannot be changed");
        }
        let namespace = object.namespace.as_deref().unwrap_or_default();
        if object.kind == "Pod" && cluster.pod(namespace, &object.name).is_some() {
            bail!(
                "{object} runs; delete it first with `specola sandbox delete pod/{namespace}/{}`",
                object.name
            );
        }
    }
    Ok(())
}

fn new_pod(cluster: &Cluster, object: &mut Object) -> anyhow::Result<NewPod> {
    let nodes: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let load = |node: &String| cluster.pods.iter().filter(|pod| pod.node == *node).count();
    let emptiest = nodes.iter().min_by_key(|node| load(node)).context("a sandbox has a node")?.clone();
    let pod = spec::read_pod(object, &nodes, &emptiest)?;
    Ok(NewPod { namespace: pod.namespace, name: pod.name, node: pod.node, annotation: pod.annotation })
}
