//! `GetFlowsRequest`, checked.

use prost::Message as _;
use specola_flow::{FilterSet, FlowMask, InvalidFilter, InvalidMask};
use specola_proto::{google::Timestamp, observer as pb, specola::v1::FlowRequestOptions};

/// What a client wants to see.
#[derive(Clone, Debug)]
pub(crate) struct FlowsQuery {
    /// Number of flows; `None` = all.
    pub(super) number: Option<u64>,
    /// The oldest ones rather than the newest.
    pub(super) is_first: bool,
    /// Go on with new flows.
    pub(crate) follow: bool,
    /// Not before, ns.
    pub(super) since_ns: Option<u64>,
    /// Not after, ns.
    pub(super) until_ns: Option<u64>,
    pub(crate) filters: FilterSet,
    pub(crate) mask: Option<FlowMask>,
    /// Whether flows carry `specola.v1.FlowExtension`.
    pub(crate) extension: bool,
    /// The request without its range: equal for queries that give the same answer to the same flow.
    pub(crate) content: Vec<u8>,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("first cannot be specified with follow")]
    FirstWithFollow,
    #[error("{field}: {nanos} nanoseconds are not within one second")]
    Time { field: &'static str, nanos: i32 },
    #[error(transparent)]
    Filter(#[from] InvalidFilter),
    #[error("field_mask: {0}")]
    Mask(#[from] InvalidMask),
    #[error("extensions: {0}")]
    Extensions(String),
}

impl FlowsQuery {
    pub(super) fn parse(request: &pb::GetFlowsRequest) -> Result<Self, Refused> {
        if request.first && request.follow {
            return Err(Refused::FirstWithFollow);
        }
        let paths = request.field_mask.as_ref().map_or(&[][..], |mask| &mask.paths);
        Ok(Self {
            number: (request.number > 0).then_some(request.number),
            is_first: request.first,
            follow: request.follow,
            since_ns: time("since", request.since)?,
            until_ns: time("until", request.until)?,
            filters: FilterSet::compile(&request.whitelist, &request.blacklist)?,
            mask: FlowMask::compile(paths)?,
            extension: wants_extension(request)?,
            content: content(request),
        })
    }
}

fn content(request: &pb::GetFlowsRequest) -> Vec<u8> {
    let (number, first, follow, since, until) = Default::default();
    pb::GetFlowsRequest { number, first, follow, since, until, ..request.clone() }.encode_to_vec()
}

/// Nanoseconds since 1970; times before are 1970.
pub(super) fn time(field: &'static str, time: Option<Timestamp>) -> Result<Option<u64>, Refused> {
    let Some(time) = time else {
        return Ok(None);
    };
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(Refused::Time { field, nanos: time.nanos });
    }
    Ok(Some(u64::try_from(time.unix_nanos()).unwrap_or(0)))
}

/// Extensions of other types are ignored, as Hubble does.
fn wants_extension(request: &pb::GetFlowsRequest) -> Result<bool, Refused> {
    let Some(any) = &request.extensions else {
        return Ok(false);
    };
    let options =
        any.unpack::<FlowRequestOptions>().map_err(|cause| Refused::Extensions(cause.to_string()))?;
    Ok(options.is_some_and(|options| options.extension))
}
