//! An agent without a kernel: made-up events take the way of real ones through pipeline, ring and flow API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use specola_directory::directory;
use specola_flow::NodeInfo;
use specola_flow_server::{AccessLog, Clock, Pipeline, Synthetic, flow_server};
use specola_lifecycle::Lifecycle;
use specola_serve::Refresh;
use specola_telemetry::Metrics;

use crate::config::AgentConfig;
use crate::run::{flow_config, report, spawn_exporters, spawn_flow_metrics, spawn_metrics, spawn_observer};
use crate::warnings::Warnings;

/// Serves `rate` made-up events a second until `stop`. Needs no rights beyond those to its sockets.
pub(crate) async fn run_synthetic(
    config: &AgentConfig,
    rate: u32,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (mut writer, reader) = directory(NodeInfo {
        name: config.node_name.clone(),
        cluster_name: config.cluster_name.clone(),
        labels: vec!["specola.io/source=synthetic".to_owned()],
    });
    writer.apply(Synthetic::changes()).context("filling the directory")?;
    let settings = flow_config(config)?;
    let clock = settings.clock.clone();
    let (pipeline, flows) = flow_server(settings, reader).context("making the flow ring")?;
    let registry = Arc::new(Metrics::new());
    registry.register(|registry| flows.register_metrics(registry));

    let (mut life, mut sinks) = (Lifecycle::new(), Lifecycle::new());
    let warnings = Warnings::default();
    spawn_exporters(&mut sinks, &config.flow_export, &flows, &registry, &warnings)?;
    spawn_flow_metrics(&mut sinks, &config.flow_metrics, &flows, &registry, &warnings)?;
    spawn_observer(&mut sinks, config, &flows).await?;
    let nothing_to_refresh: Refresh = Arc::new(|| Box::pin(std::future::ready(())));
    spawn_metrics(&mut life, config, registry, nothing_to_refresh).await?;
    let l7_percent = config.synthetic_l7_percent;
    let feed = Feed::start(pipeline, flows.access_log(), (rate, l7_percent), clock)?;
    tracing::info!(rate, l7_percent, "serving made-up events; nothing of this host is observed");
    let mut fed = Ok(());
    let between = async { fed = feed.stop().await };
    let outcome = life.run_before(sinks, stop, between, config.drain_timeout).await;
    report(&outcome);
    fed?;
    outcome.cause.map_or(Ok(()), |cause| Err(cause).context("the agent stopped by itself"))
}

/// How often events are made.
const TICK: Duration = Duration::from_millis(1);
/// Events of a tick at most; the queue of requests holds that many. What is missing after a pause of the machine comes
/// in later ticks.
const BATCH: u64 = 2048;
/// The same events in every run.
const SEED: u64 = 1;

/// Whether the event with this number is a request or response: so many of a hundred, evenly spread.
const fn is_request(number: u64, percent: u8) -> bool {
    let share = percent as u64;
    (number + 1) * share / 100 > number * share / 100
}

/// The thread that stands in for the reader of the kernel's ring buffers.
struct Feed {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Feed {
    fn start(
        mut pipeline: Pipeline,
        log: AccessLog,
        (rate, l7_percent): (u32, u8),
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let feed = move || {
            let mut source = Synthetic::new(SEED);
            let (mut made, mut events, start) = (0, Vec::new(), Instant::now());
            while !stopped.load(Ordering::Acquire) {
                let due = start.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000;
                let missing = u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(made).min(BATCH);
                let now_ns = clock.now_ns();
                events.clear();
                for number in made..made + missing {
                    if is_request(number, l7_percent) {
                        log.send(source.access(now_ns)).expect("the queue holds a batch, and each is taken");
                    } else {
                        events.push(source.event(now_ns));
                    }
                }
                // The stamps are wall time already.
                pipeline.ingest(&events, 0);
                made += missing;
                std::thread::sleep(TICK);
            }
        };
        let thread = std::thread::Builder::new().name("synthetic".to_owned()).spawn(feed)?;
        Ok(Self { stop, thread })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Release);
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        joined.map_err(|_panic| anyhow::anyhow!("the synthetic source panicked"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use specola_proto::observer::GetFlowsRequest;
    use specola_proto::observer::get_flows_response::ResponseTypes;
    use specola_proto::observer::observer_client::ObserverClient;
    use tokio::sync::oneshot;
    use tonic::transport::Endpoint;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        agent: AgentConfig,
    }

    fn config(dir: &std::path::Path) -> AgentConfig {
        let socket = dir.join("observer.sock").display().to_string();
        let flags = [
            ("--node-name", "n1"),
            ("--observer-socket", &socket),
            ("--observer-listen", "127.0.0.1:0"),
            ("--metrics-listen", "127.0.0.1:0"),
            ("--synthetic", "2000"),
        ];
        let export = dir.join("flows.log").display().to_string();
        let flags = flags.into_iter().chain([("--hubble-export-file-path", export.as_str())]);
        let args = ["agent"].into_iter().chain(flags.flat_map(|(flag, value)| [flag, value]));
        Program::try_parse_from(args).expect("flags parse").agent
    }

    #[test]
    fn requests_are_spread_evenly() {
        for percent in [0, 1, 10, 33, 100] {
            let count =
                |range: std::ops::Range<u64>| range.filter(|number| is_request(*number, percent)).count();
            assert_eq!(count(0..100), usize::from(percent));
            assert_eq!(count(500..1000), 5 * usize::from(percent));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_follows_made_up_flows_until_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        let (stop, stopped) = oneshot::channel::<()>();
        let agent = tokio::spawn({
            let config = config.clone();
            async move { crate::run_until(config, async { drop(stopped.await) }).await }
        });
        let endpoint = Endpoint::from_shared(format!("unix://{}", config.observer_socket.display()));
        let endpoint = endpoint.expect("an address");
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(error) => assert!(!agent.is_finished(), "the agent ended: {error}"),
            }
            tokio::task::yield_now().await;
        };
        let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
        let mut flows =
            ObserverClient::new(channel).get_flows(request).await.expect("an answer").into_inner();
        let (mut requests, mut last) = (0, String::new());
        for _ in 0..500 {
            let answer = flows.message().await.expect("no failure").expect("no end");
            let Some(ResponseTypes::Flow(flow)) = answer.response_types else {
                panic!("no flow: {answer:?}");
            };
            assert!(flow.source.is_some_and(|source| !source.labels.is_empty()));
            assert_eq!(flow.node_name, "n1");
            requests += usize::from(flow.l7.is_some_and(|l7| l7.record.is_some()));
            last = flow.uuid;
        }
        // Ten of a hundred events; some events give two flows.
        assert!((20..80).contains(&requests), "{requests} of 500 flows are requests and responses");
        stop.send(()).expect("the agent runs");
        // There may be no more.
        while let Some(answer) = flows.message().await.expect("no failure") {
            let Some(ResponseTypes::Flow(flow)) = answer.response_types else {
                panic!("no flow: {answer:?}");
            };
            last = flow.uuid;
        }
        drop(flows);
        agent.await.expect("no panic").expect("a clean end");

        // Whoever takes flows out ends after the last one is in the ring: both have it.
        let text = std::fs::read_to_string(dir.path().join("flows.log")).expect("an exported file");
        let id = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            event["flow"]["uuid"].as_str().expect("an id").to_owned()
        };
        assert_eq!(text.lines().last().map(id), Some(last.clone()));
        let id: specola_flow::FlowUuid = last.parse().expect("an id");
        assert_eq!(text.lines().count() as u64, id.seq + 1, "every flow since the start is in the file");
    }
}
