//! What the arguments of `observe` mean: the request, and how its answer is shown.

use specola_proto::google::{Any, FieldMask};
use specola_proto::observer::{GetAgentEventsRequest, GetDebugEventsRequest, GetFlowsRequest};
use specola_proto::specola::v1::FlowRequestOptions;

use super::answer::Question;
use super::args::{FormatArgs, ObserveArgs, Output, RawFilterArgs, SelectionArgs, What};
use super::filter::{self, Filters};
use super::flags::FilterFlags;
use super::time;
use crate::error::UsageError;
use crate::personality::Personality;
use crate::printer::{Form, Style};

/// Everything `observe` needs to know, checked.
pub(crate) struct Plan {
    /// What is asked for.
    pub(crate) what: What,
    /// What each node is asked.
    pub(crate) request: GetFlowsRequest,
    /// How many flows of all nodes together are shown.
    pub(crate) limit: Limit,
    /// How flows are printed.
    pub(crate) style: Style,
}

/// How many flows are shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Limit {
    /// All that come.
    None,
    /// The newest ones.
    Last(u64),
    /// The oldest ones.
    First(u64),
}

impl Plan {
    /// Reads the arguments. `several_nodes` says whether flows of more than one node are mixed.
    ///
    /// # Errors
    /// Arguments are wrong or contradict each other.
    pub(crate) fn new(
        args: &ObserveArgs,
        now: jiff::Timestamp,
        several_nodes: bool,
        personality: Personality,
    ) -> Result<Self, UsageError> {
        check_format(args)?;
        let filters = filters(&args.filters, &args.raw_filters)?;
        let (number, limit) = limit(&args.selection, args.input_file.is_some() || args.live.aggregate)?;
        let number = if args.what == What::Flows { number } else { check_events(args, &filters, number)? };
        let mut request = GetFlowsRequest {
            number,
            first: matches!(limit, Limit::First(_)),
            follow: args.selection.follow || args.live.aggregate,
            whitelist: filters.allow,
            blacklist: filters.deny,
            field_mask: field_mask(args, personality),
            extensions: (personality == Personality::Specola || args.live.aggregate)
                .then(|| Any::pack(&FlowRequestOptions { extension: true })),
            ..GetFlowsRequest::default()
        };
        if let Some(since) = &args.selection.since {
            request.since = Some(time::parse(since, now).map_err(|error| UsageError::new("--since", error))?);
        }
        if let Some(until) = &args.selection.until {
            let until = time::parse(until, now).map_err(|error| UsageError::new("--until", error))?;
            request.until = (!args.selection.follow).then_some(until);
        }
        // A server sends the oldest N of a time range; asked for the last ones, they are chosen here.
        let ranged = request.since.is_some() || request.until.is_some();
        if ranged && matches!(limit, Limit::Last(_)) {
            request.number = 0;
        }
        let style = Style {
            extras: personality == Personality::Specola,
            debug: args.target.debug,
            ..style(&args.format, several_nodes)
        };
        Ok(Self { what: args.what, request, limit, style })
    }
}

impl Plan {
    /// What each server is asked.
    pub(crate) fn question(&self) -> Question {
        let GetFlowsRequest { number, follow, since, until, .. } = self.request;
        match self.what {
            What::Flows => Question::Flows(self.request.clone()),
            What::AgentEvents => {
                let events = GetAgentEventsRequest { number, follow, since, until, ..Default::default() };
                Question::AgentEvents(events)
            }
            What::DebugEvents => {
                let events = GetDebugEventsRequest { number, follow, since, until, ..Default::default() };
                Question::DebugEvents(events)
            }
        }
    }
}

/// What does not go with events, and how many are asked for: some of the past also with --follow.
fn check_events(args: &ObserveArgs, filters: &Filters, number: u64) -> Result<u64, UsageError> {
    if let Some(given) = args.filters.given.first() {
        let flag = given.flag.name;
        return Err(UsageError::text(format!("--{flag} filters flows; events have no filters")));
    }
    if *filters != Filters::default() {
        return Err(UsageError::text("--allowlist and --denylist filter flows; events have no filters"));
    }
    if args.format.output.is_flat() {
        return Err(UsageError::text("csv and ndjson are for flows; use -o json for events"));
    }
    if args.selection.first.is_some() {
        return Err(UsageError::text("--first is for flows; use --last for events"));
    }
    let is_ranged = args.selection.since.is_some() || args.selection.until.is_some();
    Ok(if number == 0 && !is_ranged { DEFAULT_NUMBER } else { number })
}

/// The filters of the flags and of `--allowlist` and `--denylist`.
///
/// # Errors
/// A value is wrong, or flags contradict each other.
pub(crate) fn filters(flags: &FilterFlags, raw: &RawFilterArgs) -> Result<Filters, UsageError> {
    let mut filters = filter::compile(&flags.given).map_err(UsageError::from_error)?;
    for (flag, texts, list) in [
        ("--allowlist", &raw.allowlist, &mut filters.allow),
        ("--denylist", &raw.denylist, &mut filters.deny),
    ] {
        for text in texts {
            for filter in serde_json::Deserializer::from_str(text).into_iter() {
                list.push(filter.map_err(|error| UsageError::new(flag, error))?);
            }
        }
    }
    Ok(filters)
}

fn check_format(args: &ObserveArgs) -> Result<(), UsageError> {
    let format = &args.format;
    if !format.field_mask.is_empty() && !format.output.is_json() {
        let name = match format.output {
            Output::Compact => "compact",
            Output::Dict => "dict",
            Output::Table => "table",
            Output::Csv => "csv",
            Output::Ndjson => "ndjson",
            Output::Json | Output::Jsonpb => "json",
        };
        return Err(UsageError::text(format!(
            "{name} output format is not compatible with custom field mask; use -o json"
        )));
    }
    if format.output == Output::Table && args.selection.follow {
        return Err(UsageError::text(
            "table output format is not compatible with follow mode; use -o compact",
        ));
    }
    Ok(())
}

/// The number to ask each server for, and the limit for all servers together.
fn limit(selection: &SelectionArgs, from_file: bool) -> Result<(u64, Limit), UsageError> {
    let SelectionArgs { follow, last, first, all, since, until } = selection;
    let conflict =
        |one: &str, other: &str| Err(UsageError::text(format!("cannot set both --{one} and --{other}")));
    let last_limit = |number| if *follow { Limit::None } else { Limit::Last(number) };
    match (first, last) {
        (Some(_), Some(_)) => conflict("first", "last"),
        (Some(_), None) if *all => conflict("first", "all"),
        (Some(_), None) if *follow => conflict("first", "follow"),
        (None, Some(_)) if *all => conflict("last", "all"),
        (Some(first), None) => Ok((first.get(), Limit::First(first.get()))),
        (None, Some(last)) => Ok((last.get(), last_limit(last.get()))),
        // A follower with number 0 gets nothing of the past, so "all" is a number.
        (None, None) if *all => Ok((u64::MAX, Limit::None)),
        (None, None) if *follow || from_file || since.is_some() || until.is_some() => Ok((0, Limit::None)),
        (None, None) => Ok((DEFAULT_NUMBER, Limit::Last(DEFAULT_NUMBER))),
    }
}

fn field_mask(args: &ObserveArgs, personality: Personality) -> Option<FieldMask> {
    if !args.format.field_mask.is_empty() {
        return Some(args.format.field_mask.iter().map(|path| path.trim()).collect());
    }
    let is_whole = args.format.output.is_whole() || args.live.aggregate;
    let masked = args.format.use_default_field_masks && !is_whole;
    let shown = |field: &&str| personality == Personality::Specola || *field != "extensions";
    masked.then(|| SHOWN_FIELDS.iter().copied().filter(shown).collect())
}

pub(crate) fn style(format: &FormatArgs, several_nodes: bool) -> Style {
    Style {
        form: match format.output {
            Output::Compact => Form::Compact,
            Output::Dict => Form::Dict,
            Output::Json | Output::Jsonpb => Form::Json,
            Output::Table => Form::Table,
            Output::Csv => Form::Csv,
            Output::Ndjson => Form::Ndjson,
        },
        node_name: format.print_node_name || several_nodes,
        policy_names: format.print_policy_names,
        names: format.ip_translation && !format.numeric,
        time: format.time_format,
        color: format.color.resolve(),
        silent: format.silent_errors,
        extras: true,
        debug: false,
        legacy_json: std::env::var_os(COMPATIBILITY).is_some_and(|modes| modes == "legacy-json-output"),
    }
}

/// Hubble's switch for old forms of the output.
const COMPATIBILITY: &str = "HUBBLE_COMPAT";

const DEFAULT_NUMBER: u64 = 20;

/// Fields that the text forms show: those that Hubble's client asks for, and those that its defaults lack.
const SHOWN_FIELDS: [&str; 37] = [
    "time",
    "uuid",
    "verdict",
    "drop_reason_desc",
    "auth_type",
    "ethernet",
    "IP",
    "l4",
    "source.identity",
    "source.namespace",
    "source.pod_name",
    "destination.identity",
    "destination.namespace",
    "destination.pod_name",
    "Type",
    "node_name",
    "source_names",
    "destination_names",
    "l7",
    "event_type",
    "source_service",
    "destination_service",
    "traffic_direction",
    "policy_match_type",
    "trace_observation_point",
    "ip_trace_id",
    "is_reply",
    "debug_capture_point",
    "sock_xlate_point",
    "Summary",
    "extensions",
    "egress_allowed_by",
    "ingress_allowed_by",
    "egress_denied_by",
    "ingress_denied_by",
    "policy_log",
    "trace_reason",
];

#[cfg(test)]
mod tests;
