//! Flows of several servers as one.

use std::sync::{Arc, Mutex};

use specola_proto::observer::{GetFlowsRequest, GetFlowsResponse};

use super::fake::{End, FakeObserver, Script, flow};
use super::interrupt::Interrupt;
use super::plan::Limit;
use super::stream::NodeStream;
use super::{Layout, follow, history};
use crate::authorize::Authorize;
use crate::printer::{Form, Printer, Style};
use crate::target::{Address, Target, Timeout};

const STYLE: Style = Style {
    form: Form::Compact,
    node_name: false,
    policy_names: false,
    names: true,
    time: Layout::StampMilli,
    color: false,
    silent: false,
    extras: true,
    debug: false,
    legacy_json: false,
};

/// An output that can be read while it is written.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The summaries of all lines, which the fake flows are named by.
    fn names(&self) -> Vec<String> {
        let name = |line: &str| line.rsplit_once('(').map(|(_, name)| name.trim_end_matches(')').to_owned());
        self.text().lines().filter_map(name).collect()
    }
}

fn stream(name: &str, address: std::net::SocketAddr, request: &GetFlowsRequest) -> NodeStream {
    let address = Address::Tcp(address.to_string());
    let target = Target { name: name.to_owned(), address, authorize: Authorize::default(), forward: None };
    NodeStream::new(target, request.clone().into(), Timeout::default())
}

async fn server(answers: Vec<GetFlowsResponse>, end: End) -> FakeObserver {
    FakeObserver::start([Script { answers, end }]).await
}

/// An address on which nobody listens.
async fn nowhere() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// What is printed of two servers whose flows interleave.
async fn past(limit: Limit) -> Vec<String> {
    let one = server(vec![flow(1, "a"), flow(4, "d"), flow(5, "e")], End::Done).await;
    let other = server(vec![flow(2, "b"), flow(3, "c"), flow(6, "f")], End::Done).await;
    let request = GetFlowsRequest::default();
    let streams = vec![stream("n1", one.address, &request), stream("n2", other.address, &request)];
    let out = Shared::default();
    let (_keep, interrupt) = Interrupt::for_test();
    let printer = Printer::new(STYLE, out.clone(), Vec::new());
    history::run(streams, limit, printer, interrupt).await.unwrap();
    out.names()
}

#[tokio::test]
async fn the_past_of_several_servers_is_merged_by_time() {
    assert_eq!(past(Limit::None).await, ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(past(Limit::Last(2)).await, ["e", "f"]);
    assert_eq!(past(Limit::First(3)).await, ["a", "b", "c"]);
    assert_eq!(past(Limit::Last(99)).await, ["a", "b", "c", "d", "e", "f"]);
}

#[tokio::test]
async fn an_absent_server_is_said_and_the_others_are_shown() {
    let one = server(vec![flow(1, "a")], End::Done).await;
    let request = GetFlowsRequest::default();
    let streams = vec![stream("n1", one.address, &request), stream("n2", nowhere().await, &request)];
    let (out, err) = (Shared::default(), Shared::default());
    let (_keep, interrupt) = Interrupt::for_test();
    let printer = Printer::new(STYLE, out.clone(), err.clone());
    let code = history::run(streams, Limit::None, printer, interrupt).await.unwrap();
    assert_eq!(out.names(), ["a"]);
    assert!(err.text().starts_with("cannot connect to n2: "), "{}", err.text());
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::FAILURE));
}

#[tokio::test]
async fn without_any_server_there_is_an_error() {
    for follows in [false, true] {
        let request = GetFlowsRequest { follow: follows, ..GetFlowsRequest::default() };
        let streams = vec![stream("n1", nowhere().await, &request), stream("n2", nowhere().await, &request)];
        let printer = Printer::new(STYLE, Vec::new(), Vec::new());
        let (_keep, interrupt) = Interrupt::for_test();
        let outcome = if follows {
            follow::run(streams, printer, interrupt).await
        } else {
            history::run(streams, Limit::None, printer, interrupt).await
        };
        assert!(outcome.unwrap_err().to_string().starts_with("cannot connect to n1: "));
    }
}

#[tokio::test]
async fn followed_servers_are_brought_in_order_and_absent_ones_join_later() {
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let late = nowhere().await;
    let one = server(vec![flow(1, "a"), flow(4, "d")], End::Open).await;
    let other = server(vec![flow(2, "b"), flow(3, "c")], End::Open).await;
    let streams = vec![
        stream("n1", one.address, &request),
        stream("n2", other.address, &request),
        stream("n3", late, &request),
    ];
    let (out, err) = (Shared::default(), Shared::default());
    let (stop, interrupt) = Interrupt::for_test();
    let printer = Printer::new(STYLE, out.clone(), err.clone());
    let running = tokio::spawn(follow::run(streams, printer, interrupt));
    while out.names().len() < 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(out.names(), ["a", "b", "c", "d"]);
    assert!(err.text().contains("cannot connect to n3: "), "{}", err.text());
    stop.send_replace(true);
    let code = running.await.unwrap().unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
}
