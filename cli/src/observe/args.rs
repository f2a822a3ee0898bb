//! Arguments of `observe` as they are typed.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::aggregate::AggregateArgs;
use super::flags::FilterFlags;
use super::time::Layout;
use crate::target::TargetArgs;
use crate::traffic::By;

/// Arguments of `observe`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ObserveArgs {
    /// What to show.
    #[arg(value_enum, default_value_t = What::Flows)]
    pub(crate) what: What,
    /// Ask nobody: attach programs to these devices of this machine (eth0,eth1 or auto), show what passes until Ctrl-C,
    /// and remove them again. Needs root.
    #[arg(
        long,
        value_name = "DEVICES",
        conflicts_with_all = ["server", "sandbox", "last", "first", "all", "since", "until"]
    )]
    pub(crate) attach: Option<specola_agent::Devices>,
    /// Ask nobody: read flows as JSON lines, as `-o json` and exporters write them; - for standard input.
    #[arg(long, visible_alias = "file", value_name = "FILE", conflicts_with_all = ["sandbox", "attach", "follow", "port_forward"])]
    pub(crate) input_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) live: AggregateArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    #[command(flatten)]
    pub(crate) filters: FilterFlags,
    #[command(flatten)]
    pub(crate) raw_filters: RawFilterArgs,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

impl ObserveArgs {
    /// Arguments for flows with all that is known of them, for those that make something else of them.
    pub(crate) const fn whole_flows(
        input_file: Option<PathBuf>,
        target: TargetArgs,
        selection: SelectionArgs,
        filters: FilterFlags,
        raw_filters: RawFilterArgs,
    ) -> Self {
        let format = FormatArgs {
            output: Output::Ndjson,
            print_node_name: false,
            print_policy_names: false,
            time_format: Layout::StampMilli,
            numeric: false,
            ip_translation: true,
            color: ColorChoice::Never,
            field_mask: Vec::new(),
            use_default_field_masks: true,
            silent_errors: false,
        };
        let live = AggregateArgs { aggregate: false, by: By::Workload, interval: None };
        Self {
            what: What::Flows,
            attach: None,
            input_file,
            live,
            target,
            selection,
            filters,
            raw_filters,
            format,
        }
    }
}

impl SelectionArgs {
    /// Whether it says anything.
    pub(crate) const fn is_given(&self) -> bool {
        let Self { follow, last, first, all, since, until } = self;
        *follow || last.is_some() || first.is_some() || *all || since.is_some() || until.is_some()
    }
}

/// What `observe` shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum What {
    /// Network flows.
    Flows,
    /// What agents did: policies, endpoints, addresses.
    AgentEvents,
    /// What kernel programs say of themselves; Specola's say it by flows, Hubble's by events.
    DebugEvents,
}

/// Which part of the past and the future.
#[derive(Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct SelectionArgs {
    /// Keep showing new flows; reconnects when the connection is lost.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Show the newest N flows.
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<NonZeroU64>,
    /// Show the oldest N flows.
    #[arg(long, value_name = "N")]
    pub(crate) first: Option<NonZeroU64>,
    /// Show all flows that are held.
    #[arg(long)]
    pub(crate) all: bool,
    /// Show flows since a time: a duration before now such as 5m, or a time such as 2026-01-02T15:04:05Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Show flows until a time, as --since; has no effect together with --follow.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

/// Filters as protobuf JSON.
#[derive(Args)]
#[command(next_help_heading = "Raw filters")]
pub(crate) struct RawFilterArgs {
    /// Also allow flows that match these filters: FlowFilter messages as JSON.
    #[arg(long, value_name = "JSON", env = "HUBBLE_ALLOWLIST")]
    pub(crate) allowlist: Vec<String>,
    /// Also leave out flows that match these filters: FlowFilter messages as JSON.
    #[arg(long, value_name = "JSON", env = "HUBBLE_DENYLIST")]
    pub(crate) denylist: Vec<String>,
    /// Print the filters that would be sent, as YAML with JSON in it, and exit.
    #[arg(long)]
    pub(crate) print_raw_filters: bool,
}

/// How flows are printed.
#[derive(Args)]
#[command(next_help_heading = "Format")]
pub(crate) struct FormatArgs {
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    pub(crate) output: Output,
    /// Print the node that saw each flow; always on with --sandbox.
    #[arg(long)]
    pub(crate) print_node_name: bool,
    /// Print the policies that decided.
    #[arg(long)]
    pub(crate) print_policy_names: bool,
    /// Layout of times, UTC; json has its own.
    #[arg(long, value_enum, default_value_t = Layout::StampMilli)]
    pub(crate) time_format: Layout,
    /// Print addresses instead of pod, service and DNS names.
    #[arg(long)]
    pub(crate) numeric: bool,
    /// Print pod, service and DNS names instead of addresses.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) ip_translation: bool,
    /// When to colour the output; auto: on a terminal, unless NO_COLOR is set.
    #[arg(long, value_enum, default_value_t = ColorChoice::Auto)]
    pub(crate) color: ColorChoice,
    /// Ask for these fields of a flow only, comma-separated; json output only.
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    pub(crate) field_mask: Vec<String>,
    /// Ask for no more fields than the output form shows.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) use_default_field_masks: bool,
    /// Print no states of nodes on stderr.
    #[arg(long, short)]
    pub(crate) silent_errors: bool,
}

/// Form of the output of `observe`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// One line per flow.
    Compact,
    /// One field per line.
    Dict,
    /// One JSON object per line.
    Json,
    /// The same as json.
    Jsonpb,
    /// Aligned columns, printed at the end.
    #[value(alias = "tab")]
    Table,
    /// Comma-separated values of flows; names in the first line.
    Csv,
    /// One flat JSON object per flow and line, with the values of csv.
    Ndjson,
}

impl Output {
    /// Whether it takes all that is known of a flow.
    pub(crate) const fn is_whole(self) -> bool {
        matches!(self, Self::Json | Self::Jsonpb | Self::Csv | Self::Ndjson)
    }

    /// Whether it is Hubble's JSON, where any field may be left out.
    pub(crate) const fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonpb)
    }

    /// Whether it is for flows only.
    pub(crate) const fn is_flat(self) -> bool {
        matches!(self, Self::Csv | Self::Ndjson)
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

const AFTER_HELP: &str = "\
Examples:
  specola observe -f --verdict DROPPED --print-policy-names
  specola observe --sandbox shop --from-pod shop/frontend --last 50
  specola observe -n shop --not --port 53 -o json
  specola observe --attach eth0 --protocol tcp
  specola observe --aggregate --sandbox shop
  specola observe agent-events -f
  specola observe --file flows.json --verdict DROPPED -o csv

Exit codes: 0 done, also when --follow is ended by Ctrl-C or the reader of a pipe goes away; 1 error; 2 wrong usage;
130 ended by Ctrl-C without --follow.";
