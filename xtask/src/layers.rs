//! Which crate of ours may depend on which, and which third-party crates are fenced.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Crate -> what of ours it may use. Dev-dependencies are exempt.
const ALLOWED: &[(&str, &[&str])] = &[
    // L0: leaves
    ("specola-proto", &[]),
    ("specola-datapath-common", &[]),
    ("specola-labels", &[]),
    ("specola-ring", &[]),
    ("specola-lifecycle", &[]),
    ("specola-telemetry", &[]),
    // L1: domain
    ("specola-flow", &["specola-labels", "specola-proto"]),
    ("specola-policy", &["specola-labels"]),
    ("specola-directory", &["specola-labels", "specola-flow"]),
    ("specola-serve", &["specola-lifecycle", "specola-telemetry"]),
    ("specola-capture", &[]),
    ("specola-replay", &["specola-datapath-common"]),
    // L2: engines
    ("specola-datapath", &["specola-datapath-common", "specola-lifecycle", "specola-telemetry"]),
    (
        "specola-flow-server",
        &[
            "specola-datapath-common",
            "specola-directory",
            "specola-flow",
            "specola-labels",
            "specola-lifecycle",
            "specola-proto",
            "specola-ring",
            "specola-serve",
            "specola-telemetry",
        ],
    ),
    ("specola-relay", &["specola-lifecycle", "specola-proto", "specola-serve", "specola-telemetry"]),
    // L3: assembly
    (
        "specola-agent",
        &[
            "specola-capture",
            "specola-datapath",
            "specola-datapath-common",
            "specola-directory",
            "specola-flow",
            "specola-flow-server",
            "specola-labels",
            "specola-lifecycle",
            "specola-policy",
            "specola-proto",
            "specola-replay",
            "specola-ring",
            "specola-serve",
            "specola-telemetry",
        ],
    ),
    (
        "specola-sandbox",
        &["specola-labels", "specola-lifecycle", "specola-policy", "specola-proto", "specola-telemetry"],
    ),
    (
        "specola-cli",
        &[
            "specola-agent",
            "specola-flow",
            "specola-labels",
            "specola-lifecycle",
            "specola-policy",
            "specola-proto",
            "specola-relay",
            "specola-sandbox",
            "specola-telemetry",
        ],
    ),
];

/// Exempt from the table: they exist to see everything.
const EXEMPT: &[&str] = &["specola-testkit", "specola-tests", "xtask"];

/// Heavy third-party crates and the only ones of ours that may name them.
const FENCED: &[(&str, &[&str])] = &[
    ("aya", &["specola-datapath"]),
    ("kube", &["specola-agent"]),
    ("datafusion", &["specola-query-engine"]),
    (
        "tonic",
        &[
            "specola-proto",
            "specola-serve",
            "specola-flow-server",
            "specola-agent",
            "specola-sandbox",
            "specola-cli",
            "specola-relay",
        ],
    ),
];

/// Compares `cargo metadata` with the tables and lists every edge that is not allowed.
pub(crate) fn check() -> Result<()> {
    let metadata = MetadataCommand::new().no_deps().exec().context("cargo metadata")?;
    let found = violations(&edges(&metadata));
    if !found.is_empty() {
        bail!("layers are broken:\n  {}", found.join("\n  "));
    }
    println!("layers: {} crates, every dependency allowed", metadata.packages.len());
    Ok(())
}

/// Crate -> names of its normal and build dependencies.
fn edges(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let mut edges = BTreeMap::new();
    for package in &metadata.packages {
        let names = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .map(|dependency| dependency.name.clone())
            .collect();
        edges.insert(package.name.to_string(), names);
    }
    edges
}

fn violations(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (krate, dependencies) in edges {
        if EXEMPT.contains(&krate.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == krate) else {
            found.push(format!("{krate} is in no layer: add it to xtask/src/layers.rs"));
            continue;
        };
        for dependency in dependencies {
            if edges.contains_key(dependency) && !allowed.contains(&dependency.as_str()) {
                found.push(format!("{krate} may not depend on {dependency}"));
            }
            if let Some((_, users)) = FENCED.iter().find(|(name, _)| name == dependency)
                && !users.contains(&krate.as_str())
            {
                found.push(format!("{krate} may not use {dependency}: only {} may", users.join(", ")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(list: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
        list.iter()
            .map(|(krate, uses)| ((*krate).to_owned(), uses.iter().map(|name| (*name).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn an_upward_edge_is_found() {
        let found =
            violations(&graph(&[("specola-policy", &["specola-datapath"]), ("specola-datapath", &["aya"])]));
        assert_eq!(found, ["specola-policy may not depend on specola-datapath"]);
    }

    #[test]
    fn a_fenced_crate_is_found() {
        let found = violations(&graph(&[("specola-agent", &["aya"])]));
        assert_eq!(found, ["specola-agent may not use aya: only specola-datapath may"]);
    }

    #[test]
    fn an_unknown_crate_is_found() {
        assert_eq!(violations(&graph(&[("specola-new", &[])])).len(), 1);
    }

    #[test]
    fn exempt_crates_see_everything() {
        assert!(violations(&graph(&[("specola-tests", &["aya", "specola-agent"])])).is_empty());
    }
}
