//! `specola sandbox exec`

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::client;
use crate::place::Place;
use crate::state::Cluster;

/// Becomes the command in its place; returns only when it cannot be started.
pub(super) fn run(
    name: Option<&str>,
    node: Option<&str>,
    mut words: Vec<OsString>,
) -> anyhow::Result<ExitCode> {
    let cluster = client::load(name)?;
    let place = match node {
        Some(node) => on_node(&cluster, node)?,
        None => {
            let target = words.remove(0);
            in_pod(&cluster, &target.to_string_lossy())?
        }
    };
    if words.first().is_some_and(|word| word == "--") {
        words.remove(0);
    }
    let Some((program, arguments)) = words.split_first() else {
        bail!("no command given; write it after --, as in: specola sandbox exec shop/frontend -- ip addr");
    };
    let error = place.exec(program, arguments);
    eprintln!("{error}");
    Ok(ExitCode::from(error.exit_code()))
}

fn in_pod(cluster: &Cluster, target: &str) -> anyhow::Result<Place> {
    let (namespace, name) = target.split_once('/').unwrap_or(("default", target));
    let pod = cluster.pod(namespace, name).with_context(|| {
        let names: Vec<String> = cluster.pods.iter().map(crate::Pod::full_name).collect();
        format!("sandbox {} has no pod {namespace}/{name}; it has {}", cluster.name, names.join(", "))
    })?;
    Ok(Place { cgroup: pod.cgroup.clone(), netns: pod.netns.clone(), names: Some(pod.directory.clone()) })
}

fn on_node(cluster: &Cluster, name: &str) -> anyhow::Result<Place> {
    let node = cluster.node(name).with_context(|| {
        let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        format!("sandbox {} has no node {name}; it has {}", cluster.name, names.join(", "))
    })?;
    Ok(Place { cgroup: node.cgroup.join("agent"), netns: node.netns.clone(), names: None })
}
