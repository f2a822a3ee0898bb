//! Requests of the admin API, checked field by field.

use std::path::PathBuf;

use specola_proto::specola::v1 as pb;
use tonic::Status;

use crate::endpoint::EndpointKey;
use crate::node::{EndpointRequest, Wanted};

/// A request to add an endpoint.
pub(super) fn add(request: pb::AddEndpointRequest) -> Result<EndpointRequest, Status> {
    let key = key(request.container_id, request.ifname)?;
    if !request.netns.starts_with('/') {
        return Err(invalid("netns", "must be an absolute path, such as /run/netns/name"));
    }
    let pod = request.pod.ok_or_else(|| invalid("pod", "must be given"))?;
    object_name("pod.namespace", &pod.namespace)?;
    object_name("pod.name", &pod.name)?;
    let netns = PathBuf::from(request.netns);
    Ok(EndpointRequest { key, netns, pod_namespace: pod.namespace, pod_name: pod.name })
}

/// The name of an endpoint.
pub(super) fn key(container_id: String, ifname: String) -> Result<EndpointKey, Status> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if container_id.is_empty() || container_id.len() > 128 || !container_id.bytes().all(plain) {
        return Err(invalid("container_id", "must be 1 to 128 letters, digits, '-', '_' or '.'"));
    }
    let ifname = if ifname.is_empty() { DEFAULT_IFNAME.to_owned() } else { ifname };
    // What the kernel accepts as a name, less what would make a path of it.
    if ifname.len() > 15 || ifname.starts_with('.') || !ifname.bytes().all(plain) {
        return Err(invalid("ifname", "must be an interface name of at most 15 characters"));
    }
    Ok(EndpointKey { container_id, ifname })
}

/// Which endpoint is asked for, and its name for messages.
pub(super) fn wanted(request: pb::GetEndpointRequest) -> Result<(Wanted, String), Status> {
    use pb::get_endpoint_request::Key;
    match request.key {
        Some(Key::Id(id)) => Ok((Wanted::Id(id), id.to_string())),
        Some(Key::Pod(pod)) => {
            let name = format!("{}/{}", pod.namespace, pod.name);
            Ok((Wanted::Pod { namespace: pod.namespace, name: pod.name }, name))
        }
        Some(Key::Ip(text)) => {
            let ip = text.parse().map_err(|_invalid| invalid("ip", &format!("{text:?} is no IP address")))?;
            Ok((Wanted::Ip(ip), text))
        }
        None => Err(invalid("key", "give id, pod or ip")),
    }
}

/// A DNS subdomain, as Kubernetes names its objects.
fn object_name(field: &str, name: &str) -> Result<(), Status> {
    if crate::store::is_object_name(name) {
        return Ok(());
    }
    Err(invalid(field, &format!("{name:?} is no object name; use lower-case letters, digits, '-' and '.'")))
}

fn invalid(field: &str, message: &str) -> Status {
    Status::invalid_argument(format!("{field}: {message}"))
}

const DEFAULT_IFNAME: &str = "eth0";

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> pb::AddEndpointRequest {
        pb::AddEndpointRequest {
            container_id: "c1".to_owned(),
            netns: "/run/netns/x".to_owned(),
            ifname: String::new(),
            pod: Some(pb::PodRef { namespace: "shop".to_owned(), name: "web".to_owned() }),
        }
    }

    #[test]
    fn the_interface_is_eth0_by_default() {
        assert_eq!(add(request()).expect("valid").key.ifname, "eth0");
    }

    #[test]
    fn every_bad_field_is_named() {
        type Break = fn(&mut pb::AddEndpointRequest);
        let cases: [(Break, &str); 8] = [
            (|r| r.container_id.clear(), "container_id"),
            (|r| r.container_id = "a/b".to_owned(), "container_id"),
            (|r| r.netns = "run/netns".to_owned(), "netns"),
            (|r| r.ifname = "../x".to_owned(), "ifname"),
            (|r| r.ifname = "sixteen-letters-".to_owned(), "ifname"),
            (|r| r.pod = None, "pod"),
            (
                |r| r.pod = Some(pb::PodRef { namespace: "..".to_owned(), name: "web".to_owned() }),
                "pod.namespace",
            ),
            (
                |r| r.pod = Some(pb::PodRef { namespace: "shop".to_owned(), name: "a/b".to_owned() }),
                "pod.name",
            ),
        ];
        for (break_it, field) in cases {
            let mut bad = request();
            break_it(&mut bad);
            let error = add(bad).expect_err(field);
            assert!(error.message().starts_with(&format!("{field}: ")), "{error}");
        }
    }

    #[test]
    fn an_endpoint_must_be_named_to_be_shown() {
        assert!(wanted(pb::GetEndpointRequest { key: None }).is_err());
        let ip = pb::get_endpoint_request::Key::Ip("10.0.0.300".to_owned());
        assert!(wanted(pb::GetEndpointRequest { key: Some(ip) }).is_err());
    }
}
