//! Real peer servers with full rings, in a process of their own.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use specola_directory::directory;
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{Config, ListenConfig, Listeners, Synthetic, flow_server};
use specola_lifecycle::drain;

use crate::flows::{Times, name};
use crate::synthetic::socket;

/// Records of each node; a denied packet's gives two flows.
pub(crate) const RECORDS: u64 = 32_768;
/// Room for them.
const CAPACITY: usize = 65_536;

/// The process of the servers. It says `ready`, and ends when its input does.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [path, nodes] = arguments else { bail!("servers DIRECTORY NODES") };
    let (path, nodes) = (PathBuf::from(path), nodes.parse().context("a number of nodes")?);
    crate::child::serve(async move {
        for node in 0..nodes {
            let times = Times { begin_ns: 1_790_000_000_000_000_000, step_ns: 10_000, nodes };
            let info = NodeInfo { name: name(node), cluster_name: "default".into(), labels: Vec::new() };
            let (mut writer, reader) = directory(info);
            writer.apply(Synthetic::changes())?;
            let config = Config { capacity: CAPACITY, ..Config::new(InstanceId::new(node + 1), "0.1.0") };
            let (mut pipeline, server) = flow_server(config, reader)?;
            let mut source = Synthetic::new(node);
            for record in 0..RECORDS {
                pipeline.ingest(&[source.event(times.at(node, record))], 0);
            }
            let listen = ListenConfig { unix: Some(socket(&path, node)), ..ListenConfig::default() };
            let listeners = Listeners::bind(&listen).await?;
            tokio::spawn(async move {
                // They live as long as the process.
                let (_trigger, drain) = drain();
                let _kept = (writer, pipeline);
                server.serve(listeners, drain).await
            });
        }
        Ok(())
    })
}
