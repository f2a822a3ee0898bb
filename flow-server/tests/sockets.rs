//! The unix socket: stale ones are replaced, live ones and other files are not.

use std::{
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

use specola_directory::directory;
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{Config, ListenConfig, ListenError, Listeners, flow_server};
use specola_lifecycle::drain;
use specola_proto::observer::{ServerStatusRequest, observer_client::ObserverClient};
use tonic::transport::Endpoint;

fn unix(path: &Path) -> ListenConfig {
    ListenConfig { unix: Some(path.to_owned()), tcp: None, tls: None }
}

async fn client(path: PathBuf) -> ObserverClient<tonic::transport::Channel> {
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://observer.local");
    ObserverClient::new(endpoint.connect_with_connector(connect).await.unwrap())
}

#[tokio::test]
async fn serves_on_a_unix_socket_and_removes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/observer.sock");
    let (_pipeline, server) =
        flow_server(Config::new(InstanceId::new(1), "1.2.3"), directory(NodeInfo::default()).1).unwrap();
    let listeners = Listeners::bind(&unix(&path)).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let (trigger, watcher) = drain();
    let serving = tokio::spawn(async move { server.serve(listeners, watcher).await });
    let mut client = client(path.clone()).await;
    let status = client.server_status(ServerStatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(status.max_flows, 4096);
    drop(client);
    trigger.signal();
    serving.await.unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("observer.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    Listeners::bind(&unix(&path)).await.unwrap();
}

#[tokio::test]
async fn a_live_socket_and_a_file_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live.sock");
    let _holder = UnixListener::bind(&live).unwrap();
    assert!(matches!(Listeners::bind(&unix(&live)).await, Err(ListenError::InUse(_))));
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(Listeners::bind(&unix(&file)).await, Err(ListenError::Unix { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}
