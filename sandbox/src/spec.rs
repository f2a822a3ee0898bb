//! What a cluster file asks for: ordinary Kubernetes objects, completed and checked.

mod addresses;
mod document;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::{Value, json};
use specola_policy::ParseOptions;

use crate::layout::{is_label, is_subdomain};
use crate::workload::{ANNOTATION, Workloads};

pub(crate) use addresses::underlay_prefix;
pub(crate) use document::Object;
pub(crate) use document::file_name;

/// Most nodes that one sandbox may have.
pub(crate) const MAX_NODES: usize = 8;

/// The path of a node's socket holds its name, and the kernel takes 107 characters for the path.
const LONGEST_NODE_NAME: usize = 32;

/// A cluster: its nodes, its pods, and every object that the agents shall see.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub nodes: Vec<NodeSpec>,
    pub pods: Vec<PodSpec>,
    /// All objects, nodes and pods among them, with what the file left out filled in.
    pub objects: Vec<Object>,
}

/// One node of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NodeSpec {
    pub name: String,
    /// On the underlay.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    /// How far its clock is off, ms.
    pub clock_offset_ms: i64,
}

/// One pod of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PodSpec {
    pub namespace: String,
    pub name: String,
    pub node: String,
    pub workloads: Workloads,
    /// The annotation as it was written.
    pub annotation: String,
}

/// Everything that is wrong with a cluster file.
#[derive(Debug, thiserror::Error)]
pub(crate) struct InvalidSpec {
    file: String,
    problems: Vec<Problem>,
}

#[derive(Debug)]
struct Problem {
    line: usize,
    text: String,
}

impl Spec {
    /// Reads a cluster file.
    ///
    /// # Errors
    /// When the file cannot be read or anything in it is wrong; all problems are told at once.
    pub(crate) fn read(path: &Path, language: ParseOptions) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("cannot read the cluster file {}: {error}", path.display()))?;
        Ok(Self::parse(&path.display().to_string(), &text, language)?)
    }

    /// Parses the text of a cluster file.
    ///
    /// # Errors
    /// When anything in it is wrong.
    pub(crate) fn parse(file: &str, text: &str, language: ParseOptions) -> Result<Self, InvalidSpec> {
        let mut builder = Builder::default();
        let mut documents = document::read(file, text, language, &mut builder.problems);
        builder.check_unique(&documents);
        builder.add_nodes(&mut documents);
        builder.add_pods(&mut documents);
        builder.add_namespaces(&mut documents);
        if !builder.problems.is_empty() {
            builder.problems.sort_by_key(|problem| problem.line);
            return Err(InvalidSpec { file: file.to_owned(), problems: builder.problems });
        }
        Ok(Self { nodes: builder.nodes, pods: builder.pods, objects: documents })
    }
}

/// Reads the objects of a file that changes a running sandbox; nothing is filled in.
///
/// # Errors
/// When a document is no Kubernetes object.
pub(crate) fn read_objects(
    file: &str,
    text: &str,
    language: ParseOptions,
) -> Result<Vec<Object>, InvalidSpec> {
    let mut problems = Vec::new();
    let objects = document::read(file, text, language, &mut problems);
    if problems.is_empty() { Ok(objects) } else { Err(InvalidSpec { file: file.to_owned(), problems }) }
}

/// Reads one Pod object; `node` is taken when the pod names none.
///
/// # Errors
/// When a field of it is wrong.
pub(crate) fn read_pod(object: &mut Object, nodes: &[String], node: &str) -> Result<PodSpec, InvalidSpec> {
    let mut builder =
        Builder { default_nodes: vec![node.to_owned()], node_names: nodes.to_vec(), ..Builder::default() };
    builder.add_pods(std::slice::from_mut(object));
    match builder.pods.pop() {
        Some(pod) if builder.problems.is_empty() => Ok(pod),
        _ => Err(InvalidSpec { file: object.to_string(), problems: builder.problems }),
    }
}

impl fmt::Display for InvalidSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{}: {}", self.file, problem.line, problem.text)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Builder {
    nodes: Vec<NodeSpec>,
    pods: Vec<PodSpec>,
    node_names: Vec<String>,
    /// Nodes that pods without a node are given in turn.
    default_nodes: Vec<String>,
    problems: Vec<Problem>,
}

impl Builder {
    fn problem(&mut self, object: &Object, text: impl fmt::Display) {
        self.problems.push(Problem { line: object.line, text: format!("{object}: {text}") });
    }

    fn check_unique(&mut self, objects: &[Object]) {
        let mut seen = BTreeSet::new();
        for object in objects {
            if !seen.insert((&object.kind, &object.namespace, &object.name)) {
                self.problems.push(Problem { line: object.line, text: format!("{object} is defined twice") });
            }
        }
    }

    fn add_nodes(&mut self, objects: &mut Vec<Object>) {
        if !objects.iter().any(|object| object.kind == "Node") {
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}});
            objects.insert(0, Object::made(node));
        }
        for object in objects.iter_mut().filter(|object| object.kind == "Node") {
            let number = self.nodes.len() + 1;
            if number > MAX_NODES {
                self.problem(object, format_args!("a sandbox has at most {MAX_NODES} nodes"));
                return;
            }
            if !is_subdomain(&object.name) || object.name.len() > LONGEST_NODE_NAME {
                self.problem(object, "metadata.name: not a lower-case DNS name of at most 32 characters");
            }
            match addresses::complete_node(object, number) {
                Ok(node) => {
                    self.node_names.push(node.name.clone());
                    self.nodes.push(node);
                }
                Err(text) => self.problem(object, text),
            }
        }
        self.default_nodes.clone_from(&self.node_names);
        if let Err(text) = addresses::check_apart(&self.nodes) {
            self.problems.push(Problem { line: 1, text });
        }
    }

    fn add_pods(&mut self, objects: &mut [Object]) {
        let mut next = 0;
        for object in objects.iter_mut().filter(|object| object.kind == "Pod") {
            let node = match object.text_at("/spec/nodeName") {
                Some(node) => node.to_owned(),
                None => {
                    let Some(node) = self.default_nodes.get(next % self.default_nodes.len().max(1)).cloned()
                    else {
                        continue;
                    };
                    next += 1;
                    object.set(&["spec", "nodeName"], json!(node));
                    node
                }
            };
            match self.pod(object, node) {
                Ok(pod) => self.pods.push(pod),
                Err(text) => self.problem(object, text),
            }
        }
    }

    fn pod(&self, object: &Object, node: String) -> Result<PodSpec, String> {
        let namespace = object.namespace.clone().unwrap_or_default();
        if !is_subdomain(&object.name) {
            return Err("metadata.name: not a lower-case DNS name".to_owned());
        }
        if !is_label(&namespace, 63) {
            return Err("metadata.namespace: not a lower-case DNS label".to_owned());
        }
        if object.value.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
            return Err(
                "spec.hostNetwork: every pod of a sandbox has a network of its own; leave it out".to_owned()
            );
        }
        if !self.node_names.contains(&node) {
            return Err(format!(
                "spec.nodeName: no node {node:?} in the cluster, it has {}",
                self.node_names.join(", ")
            ));
        }
        let annotation =
            match object.value.pointer("/metadata/annotations").and_then(|map| map.get(ANNOTATION)) {
                None => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(_) => return Err(format!("metadata.annotations[{ANNOTATION}]: not a string")),
            };
        let workloads =
            annotation.parse().map_err(|error| format!("metadata.annotations[{ANNOTATION}]: {error}"))?;
        Ok(PodSpec { namespace, name: object.name.clone(), node, workloads, annotation })
    }

    /// Makes the namespaces that pods name and the file does not have, as a cluster has "default".
    fn add_namespaces(&mut self, objects: &mut Vec<Object>) {
        let present = |objects: &[Object], name: &str| {
            objects.iter().any(|object| object.kind == "Namespace" && object.name == name)
        };
        for pod in &self.pods {
            if !present(objects, &pod.namespace) {
                let labels = json!({"kubernetes.io/metadata.name": pod.namespace});
                let metadata = json!({"name": pod.namespace, "labels": labels});
                objects.push(Object::made(
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests;
