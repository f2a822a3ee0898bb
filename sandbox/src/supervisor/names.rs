//! The name files of the pods: every pod of the sandbox by name.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;

use crate::state::{Cluster, Pod};

/// Writes `hosts` and `resolv.conf` of every pod.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write_all(cluster: &Cluster) -> anyhow::Result<()> {
    for pod in &cluster.pods {
        overwrite(&pod.directory.join("hosts"), &hosts(cluster, pod))?;
        let resolver = pod.directory.join("resolv.conf");
        let text = format!("# No name server: names come from the hosts file.\nsearch {}\n", pod.namespace);
        fs::write(&resolver, text).with_context(|| format!("cannot write {}", resolver.display()))?;
    }
    Ok(())
}

/// A pod is known as `name.namespace`, and as `name` within its namespace; IPv4 comes first.
fn hosts(cluster: &Cluster, reader: &Pod) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for is_v4 in [true, false] {
        for pod in &cluster.pods {
            for ip in pod.ips.iter().filter(|ip| ip.is_ipv4() == is_v4) {
                let (name, namespace) = (&pod.name, &pod.namespace);
                let short = if *namespace == reader.namespace { format!(" {name}") } else { String::new() };
                // Writing to a string cannot fail.
                _ = writeln!(text, "{ip} {name}.{namespace} {name}.{namespace}.pod{short}");
            }
        }
        for node in &cluster.nodes {
            for ip in node.addresses.iter().filter(|ip| ip.is_ipv4() == is_v4) {
                _ = writeln!(text, "{ip} {}", node.name);
            }
        }
    }
    text
}

/// Writes into the same file: it is mounted in running processes, and a renamed one would not reach them.
fn overwrite(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
