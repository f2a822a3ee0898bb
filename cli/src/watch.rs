//! `specola watch peers`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use specola_proto::peer::peer_client::PeerClient;
use specola_proto::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest};

use crate::error::status_text;
use crate::node::{block_on, stdout};
use crate::printer::escape;
use crate::target::TargetArgs;

/// What to watch.
#[derive(Subcommand)]
pub(crate) enum WatchCommand {
    /// The nodes that a node's peer service names, and their changes.
    #[command(
        visible_alias = "peer",
        after_help = "Examples:\n  specola watch peers --server unix:///run/specola/observer.sock"
    )]
    Peers(WatchArgs),
}

#[derive(Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    target: TargetArgs,
}

/// Runs the command until the server ends the stream.
///
/// # Errors
/// The server does not answer, or refuses.
pub(crate) fn run(command: &WatchCommand) -> anyhow::Result<ExitCode> {
    let WatchCommand::Peers(args) = command;
    block_on(async {
        let targets = args.target.resolve()?;
        anyhow::ensure!(targets.len() == 1, "several servers name the same peers: name one with --server");
        for target in targets {
            let mut client = PeerClient::new(target.connect(args.target.timeout).await?);
            let refused =
                |status: tonic::Status| anyhow::anyhow!("{}: {}", target.name, status_text(&status));
            let mut changes = client.notify(NotifyRequest {}).await.map_err(refused)?.into_inner();
            while let Some(change) = changes.message().await.map_err(refused)? {
                writeln!(stdout(), "{}", line(&change))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn line(change: &ChangeNotification) -> String {
    let kind = match change.r#type() {
        ChangeNotificationType::PeerAdded => "PEER_ADDED",
        ChangeNotificationType::PeerDeleted => "PEER_DELETED",
        ChangeNotificationType::PeerUpdated => "PEER_UPDATED",
        ChangeNotificationType::Unknown => "UNKNOWN",
    };
    let tls = change.tls.as_ref().map(|tls| format!(" (TLS.ServerName: {})", escape(&tls.server_name)));
    format!("{kind:<12} {} {}{}", escape(&change.address), escape(&change.name), tls.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use specola_proto::peer::Tls;

    use super::*;

    #[test]
    fn lines_are_hubbles() {
        let change = ChangeNotification {
            name: "c/k8s1".to_owned(),
            address: "10.0.0.8:4244".to_owned(),
            r#type: ChangeNotificationType::PeerAdded.into(),
            tls: None,
        };
        assert_eq!(line(&change), "PEER_ADDED   10.0.0.8:4244 c/k8s1");
        let tls = Some(Tls { server_name: "k8s1.c.hubble-grpc.cilium.io".to_owned() });
        let deleted =
            ChangeNotification { r#type: ChangeNotificationType::PeerDeleted.into(), tls, ..change };
        assert_eq!(
            line(&deleted),
            "PEER_DELETED 10.0.0.8:4244 c/k8s1 (TLS.ServerName: k8s1.c.hubble-grpc.cilium.io)"
        );
    }
}
