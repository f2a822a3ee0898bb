//! `specola sandbox logs`

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::client;
use crate::layout::Layout;
use crate::state::Cluster;

pub(super) fn run(
    name: Option<&str>,
    target: &str,
    follow: bool,
    connections: bool,
) -> anyhow::Result<ExitCode> {
    let cluster = client::load(name)?;
    let path = path_of(&cluster, target, connections)?;
    show(&path, follow)?;
    Ok(ExitCode::SUCCESS)
}

fn path_of(cluster: &Cluster, target: &str, connections: bool) -> anyhow::Result<PathBuf> {
    if target == "supervisor" {
        return Ok(Layout::new(&cluster.name)?.supervisor_log());
    }
    let Some((first, second)) = target.split_once('/') else {
        bail!("{target:?} is neither NAMESPACE/POD nor node/NODE nor \"supervisor\"");
    };
    // A namespace may be called "node" too: pods first.
    if let Some(pod) = cluster.pod(first, second) {
        return Ok(if connections { pod.journal() } else { pod.log() });
    }
    match cluster.node(second) {
        Some(node) if first == "node" => Ok(node.log.clone()),
        _ => bail!("sandbox {} has no {target}; `specola sandbox ps` lists what it has", cluster.name),
    }
}

fn show(path: &Path, follow: bool) -> anyhow::Result<()> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        // A pod that only idles writes nothing.
        Err(error) if error.kind() == ErrorKind::NotFound && !follow => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut output = std::io::stdout().lock();
    loop {
        let mut added = Vec::new();
        file.read_to_end(&mut added).with_context(|| format!("cannot read {}", path.display()))?;
        match output.write_all(&added).and_then(|()| output.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("cannot write to standard output")?,
        }
        // The file goes with the sandbox.
        if !follow || !path.try_exists()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
