//! Clients: those that read, those that stall, those that cut.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use specola_flow::FlowUuid;
use specola_proto::{
    flow::FlowFilter,
    google::FieldMask,
    observer::{
        GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes, observer_client::ObserverClient,
    },
};
use tokio::task::JoinSet;
use tonic::{Streaming, transport::Endpoint};

const READERS: usize = 2;
const STALLERS: usize = 4;
const CUTTERS: usize = 4;
/// How long a stalled client does not read, and how many flows it reads between.
const STALL: Duration = Duration::from_secs(3);
const BETWEEN: u64 = 2_000;
/// Flows after which a stream is cut, and time until the next.
const CUT_AFTER: u64 = 500;
const CUT_PAUSE: Duration = Duration::from_millis(200);

/// What they did.
#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    told_lost: AtomicU64,
    gaps: AtomicU64,
    whole: AtomicU64,
    stalls: AtomicU64,
    cuts: AtomicU64,
    /// The server is about to end: what is left is read without a pause.
    is_ending: AtomicBool,
}

/// A reading of it.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) read: u64,
    pub(crate) told_lost: u64,
    /// Flows that were missing without a count, in streams that were read to their end.
    pub(crate) gaps: u64,
    /// How many streams were.
    pub(crate) whole: u64,
    pub(crate) stalls: u64,
    pub(crate) cuts: u64,
}

/// Running clients.
pub(crate) struct Clients {
    counts: Arc<Counts>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Clients {
    pub(crate) fn start(socket: &Path) -> Self {
        let address: Arc<str> = format!("unix://{}", socket.display()).into();
        let (counts, mut tasks) = (Arc::new(Counts::default()), JoinSet::new());
        for _ in 0..READERS {
            tasks.spawn(read(Arc::clone(&address), Arc::clone(&counts), None));
        }
        for _ in 0..STALLERS {
            tasks.spawn(read(Arc::clone(&address), Arc::clone(&counts), Some(STALL)));
        }
        for number in 0..CUTTERS {
            tasks.spawn(cut(Arc::clone(&address), Arc::clone(&counts), number));
        }
        Self { counts, tasks }
    }

    /// From now on nobody stalls.
    pub(crate) fn hurry(&self) {
        self.counts.is_ending.store(true, Relaxed);
    }

    /// Waits for them: their streams end with the server.
    pub(crate) async fn end(mut self) -> anyhow::Result<Totals> {
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        let Counts { read, told_lost, gaps, whole, stalls, cuts, is_ending: _ } = &*self.counts;
        Ok(Totals {
            read: read.load(Relaxed),
            told_lost: told_lost.load(Relaxed),
            gaps: gaps.load(Relaxed),
            whole: whole.load(Relaxed),
            stalls: stalls.load(Relaxed),
            cuts: cuts.load(Relaxed),
        })
    }
}

async fn follow(
    address: &str,
    whitelist: Vec<FlowFilter>,
    paths: &[&str],
) -> anyhow::Result<Streaming<GetFlowsResponse>> {
    let channel = Endpoint::from_shared(address.to_owned())?.connect().await.context("connect")?;
    let field_mask = FieldMask { paths: paths.iter().map(ToString::to_string).collect() };
    let field_mask = Some(field_mask).filter(|mask| !mask.paths.is_empty());
    let request = GetFlowsRequest { follow: true, whitelist, field_mask, ..GetFlowsRequest::default() };
    Ok(ObserverClient::new(channel).get_flows(request).await?.into_inner())
}

/// Reads all flows, or stops reading again and again, and looks for gaps.
async fn read(address: Arc<str>, counts: Arc<Counts>, stall: Option<Duration>) -> anyhow::Result<()> {
    let mut stream = follow(&address, Vec::new(), &["uuid"]).await?;
    let (mut first, mut last, mut flows, mut told, mut since_stall) = (None, 0, 0, 0, 0);
    let is_whole = loop {
        let answer = match stream.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => break true,
            // A client that does not read is not waited for when the server ends.
            Err(_cut) => break false,
        };
        match answer.response_types.context("an empty answer")? {
            ResponseTypes::Flow(flow) => {
                let id: FlowUuid = flow.uuid.parse().ok().context("an id of another form")?;
                first.get_or_insert(id.seq);
                last = id.seq;
                flows += 1;
                counts.read.fetch_add(1, Relaxed);
            }
            ResponseTypes::LostEvents(lost) => {
                told += lost.num_events_lost;
                counts.told_lost.fetch_add(lost.num_events_lost, Relaxed);
            }
            ResponseTypes::NodeStatus(status) => bail!("a node tells of nodes: {status:?}"),
        }
        since_stall += 1;
        if let Some(length) = stall.filter(|_| since_stall >= BETWEEN && !counts.is_ending.load(Relaxed)) {
            since_stall = 0;
            counts.stalls.fetch_add(1, Relaxed);
            tokio::time::sleep(length).await;
        }
    };
    // A loss is told up to a second after the flows around it, so the sum is taken at the end.
    if let Some(first) = first.filter(|_| is_whole) {
        let range: u64 = last + 1 - first;
        counts.gaps.fetch_add(range.saturating_sub(flows + told), Relaxed);
        counts.whole.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Follows with a filter of its own and cuts the stream, again and again.
async fn cut(address: Arc<str>, counts: Arc<Counts>, number: usize) -> anyhow::Result<()> {
    let filter = match number % 3 {
        0 => FlowFilter { protocol: vec!["http".into(), "dns".into()], ..FlowFilter::default() },
        1 => FlowFilter { verdict: vec![2], ..FlowFilter::default() },
        _ => FlowFilter { source_pod: vec!["shop/".into()], ..FlowFilter::default() },
    };
    // A server that is gone is the end.
    while let Ok(mut stream) = follow(&address, vec![filter.clone()], &[]).await {
        let mut got = 0;
        while got < CUT_AFTER
            && let Ok(Some(_)) = stream.message().await
        {
            got += 1;
        }
        counts.cuts.fetch_add(u64::from(got == CUT_AFTER), Relaxed);
        drop(stream);
        tokio::time::sleep(CUT_PAUSE).await;
    }
    Ok(())
}
