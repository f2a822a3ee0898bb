//! `specola identity`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;
use specola_labels::NumericIdentity;
use specola_proto::specola::v1::{Identity, ListIdentitiesRequest};

use crate::columns::Columns;
use crate::error::UsageError;
use crate::node::{Node, Output, block_on, print_json, stdout};
use crate::printer::escape;
use crate::target::AdminArgs;

/// What to do with identities.
#[derive(Subcommand)]
pub(crate) enum IdentityCommand {
    /// List the identities that the node knows.
    List(ListArgs),
    /// Show the labels of one identity.
    Get(GetArgs),
}

/// Arguments of `identity list`.
#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Arguments of `identity get`.
#[derive(Args)]
pub(crate) struct GetArgs {
    /// The identity: its number, or the name of a reserved one such as `world`.
    #[arg(value_name = "ID|NAME")]
    identity: String,
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// An agent does not answer, or knows no such identity.
pub(crate) fn run(command: IdentityCommand) -> anyhow::Result<ExitCode> {
    match command {
        IdentityCommand::List(args) => block_on(list(&args)),
        IdentityCommand::Get(args) => block_on(get(&args)),
    }
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let identities = known(&args.admin).await?;
    let mut out = stdout();
    match args.output {
        Output::Json => print_json(&mut out, &json!({ "identities": identities }))?,
        Output::Compact => {
            let mut table = Columns::new(["ID", "NAME", "LABELS"]);
            for identity in &identities {
                let name = NumericIdentity(identity.id).reserved_name().unwrap_or("-");
                table.row([identity.id.to_string(), name.to_owned(), escape(&identity.labels.join(" "))]);
            }
            table.write(&mut out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let named = NumericIdentity::from_reserved_name(&args.identity).map(|identity| identity.0);
    let wanted = named.or_else(|| args.identity.parse().ok()).ok_or_else(|| {
        UsageError::text(format!("{:?} is no identity; use a number or a reserved name", args.identity))
    })?;
    let found = known(&args.admin).await?.into_iter().find(|identity| identity.id == wanted);
    let Some(found) = found else {
        anyhow::bail!("there is no identity {wanted}; `specola identity list` shows those that are known");
    };
    let mut out = stdout();
    match args.output {
        Output::Json => print_json(&mut out, &found)?,
        Output::Compact => {
            for label in &found.labels {
                std::io::Write::write_all(&mut out, format!("{}\n", escape(label)).as_bytes())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Identities that any of the agents knows, by number. Numbers of a node's own scope may differ between nodes.
async fn known(args: &AdminArgs) -> anyhow::Result<Vec<Identity>> {
    let mut known = BTreeMap::new();
    for mut node in Node::all(args).await? {
        let answer = node.call("list identities", |mut client| async move {
            client.list_identities(ListIdentitiesRequest {}).await
        });
        for identity in answer.await?.identities {
            known.entry((identity.id, identity.labels.clone())).or_insert(identity);
        }
    }
    Ok(known.into_values().collect())
}
