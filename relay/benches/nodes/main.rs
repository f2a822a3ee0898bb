//! What a relay costs in front of 10, 100 and 1,000 nodes: CPU time of a flow, added latency, memory.
//!
//! `cargo bench -p specola-relay --bench nodes [-- --only NAME]` prints Markdown tables. Nodes, relay and client are
//! processes of their own, so that each one's CPU time is its own; they talk over unix sockets.

mod child;
mod client;
mod flows;
mod rows;
mod servers;
mod synthetic;

use anyhow::{Context as _, bail};
use clap::Parser;
use specola_relay::{Relay, RelayConfig};

fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let role = arguments.first().cloned().unwrap_or_default();
    match role.as_str() {
        "nodes" => return synthetic::run(&arguments[1..]),
        "servers" => return servers::run(&arguments[1..]),
        "client" => return client::run(&arguments[1..]),
        "relay" => return relay(&arguments),
        _ => {}
    }
    let mut only = None;
    arguments.reverse();
    while let Some(argument) = arguments.pop() {
        match argument.as_str() {
            // Cargo says this to every benchmark.
            "--bench" => {}
            "--only" => only = Some(arguments.pop().context("--only needs a part of a name")?),
            other => bail!("unknown argument {other}: --only NAME"),
        }
    }
    rows::run(only.as_deref())
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    config: RelayConfig,
}

/// The process of the relay.
fn relay(arguments: &[String]) -> anyhow::Result<()> {
    let config = Command::try_parse_from(arguments)?.config;
    child::serve(async move {
        let relay = Relay::start(&config).await?;
        tokio::spawn(relay.run_until(std::future::pending()));
        Ok(())
    })
}
