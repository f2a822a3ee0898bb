"""Every method and filter of the Observer API, asked by a client that shares no code with the server.

usage: hubble_client.py TARGET...   each a gRPC target, such as unix:/path or 127.0.0.1:4244

The server must hold the flows that flow-server/tests/python.rs makes.
"""

import sys

import grpc

from wire import decode, encode

SECONDS = 30


class Client:
    def __init__(self, target):
        # On a unix socket grpc-core would send the escaped path as authority, which is none by RFC 3986: servers that
        # check it, such as this one, refuse. grpc-go sends "localhost".
        options = [("grpc.default_authority", "localhost")] if target.startswith("unix:") else []
        self.channel = grpc.insecure_channel(target, options=options)

    def unary(self, method, request, response, values=None):
        call = self.channel.unary_unary(method)
        return decode(response, call(encode(request, values or {}), timeout=SECONDS))

    def stream(self, method, request, response, values=None, take=None):
        call = self.channel.unary_stream(method)(encode(request, values or {}), timeout=SECONDS)
        answers = []
        for data in call:
            answers.append(decode(response, data))
            if len(answers) == take:
                call.cancel()
                break
        return answers

    def responses(self, **values):
        return self.stream("/observer.Observer/GetFlows", "GetFlowsRequest", "GetFlowsResponse", values)

    def flows(self, **values):
        return [answer["flow"] for answer in self.responses(**values)]

    def names(self, **values):
        """The flows by the names that the table of samples below gives them."""
        return [name_of(flow) for flow in self.flows(**values)]


def name_of(flow):
    kind = flow["event_type"]["type"]
    l4 = flow.get("l4", {})
    if "UDP" in l4:
        return "udp6"
    if "ICMPv4" in l4:
        return "icmp"
    return {1: "drop", 4: "tcp", 5: "denied"}[kind]


ALL = ["tcp", "denied", "drop", "udp6", "icmp"]

# field of FlowFilter, value that matches, names of the flows that match, value that matches none
FILTERS = [
    ("source_ip", ["10.0.0.1"], ["tcp", "denied", "drop", "icmp"], ["10.0.0.9"]),
    ("source_ip", ["fd00::/8"], ["udp6"], ["fe80::/10"]),
    ("destination_ip", ["10.0.0.0/30"], ["tcp", "denied", "drop", "icmp"], ["10.1.0.0/16"]),
    ("source_ip_xlated", None, [], ["192.0.2.1"]),
    ("source_pod", ["shop/web"], ["tcp", "denied", "drop", "icmp"], ["web"]),
    ("destination_pod", ["/db"], ["tcp", "denied", "drop", "icmp"], ["shop/web"]),
    ("source_fqdn", None, [], ["*.shop.svc"]),
    ("destination_fqdn", None, [], ["*"]),
    ("source_label", ["k8s:app in (web)"], ["tcp", "denied", "drop", "icmp"], ["app=db"]),
    ("destination_label", ["app=db,!tier"], ["tcp", "denied", "drop", "icmp"], ["app=db,tier"]),
    ("source_service", None, [], ["shop/web"]),
    ("destination_service", None, [], ["/"]),
    ("source_workload", [{"name": "web", "kind": "Deployment"}], ["tcp", "denied", "drop", "icmp"], [{"kind": "Job"}]),
    ("destination_workload", [{"name": "db"}], ["tcp", "denied", "drop", "icmp"], [{"name": "d"}]),
    ("source_cluster_name", ["default"], ["tcp", "denied", "drop", "icmp"], ["defaul*"]),
    ("destination_cluster_name", ["x", "default"], ["tcp", "denied", "drop", "icmp"], ["x"]),
    ("traffic_direction", [1], ALL, [2]),
    ("verdict", [2], ["denied", "drop"], [3]),
    ("drop_reason_desc", [133], ["denied", "drop"], [181]),
    ("interface", [{"name": "eth0"}], ["tcp", "udp6", "icmp"], [{"name": "eth1"}]),
    ("interface", [{"index": 7}], ["tcp", "udp6", "icmp"], [{"index": 8}]),
    ("event_type", [{"type": 5}], ["denied"], [{"type": 129}]),
    ("event_type", [{"type": 1, "match_sub_type": True, "sub_type": 133}], ["drop"], [{"type": 1, "match_sub_type": True}]),
    ("http_status_code", None, [], ["5+"]),
    ("http_method", None, [], ["GET"]),
    ("http_path", None, [], ["^/"]),
    ("http_url", None, [], [".*"]),
    ("http_header", None, [], [{"key": "a", "value": "b"}]),
    ("dns_query", None, [], [".*"]),
    ("protocol", ["tcp"], ["tcp", "denied", "drop"], ["sctp"]),
    ("protocol", ["icmp", "udp"], ["udp6", "icmp"], ["dns"]),
    ("source_port", ["40002"], ["denied", "drop"], ["1"]),
    ("destination_port", ["53", "80"], ["udp6"], ["22"]),
    ("reply", [False], ["tcp", "denied", "drop", "udp6", "icmp"], [True]),
    ("encrypted", [False], ALL, [True]),
    ("tcp_flags", [{"SYN": True}], ["tcp", "denied", "drop"], [{"SYN": True, "ACK": True}]),
    ("node_name", ["default/n*"], ALL, ["other/n1"]),
    ("node_labels", ["zone=a"], ALL, ["zone=b"]),
    ("ip_version", [2], ["udp6"], [0]),
    ("trace_id", None, [], ["4bf92f3577b34da6a3ce929d0e0e4736"]),
    ("ip_trace_id", [0], ALL, [7]),
    ("source_identity", [300], ["tcp", "denied", "drop", "icmp"], [1]),
    ("destination_identity", [301], ["tcp", "denied", "drop", "icmp"], [1]),
    ("experimental", {"cel_expression": ["_flow.l4.UDP.destination_port == 53u"]}, ["udp6"], {"cel_expression": ["false"]}),
]

# a filter that is refused, and what the text says
REFUSED = [
    ({"source_ip": ["x"]}, "whitelist[0].source_ip"),
    ({"source_port": ["70000"]}, "whitelist[0].source_port"),
    ({"protocol": ["quic"]}, 'unknown protocol: "quic"'),
    ({"dns_query": ["("]}, "failed to compile regexp"),
    ({"node_name": ["a/b/c"]}, "too many slashes"),
    ({"experimental": {"cel_expression": ["1"]}}, 'got "int", wanted "bool"'),
    ({"http_method": ["GET"], "event_type": [{"type": 4}]}, "only match 'l7' events"),
]


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(found, expected, what):
    check(found == expected, f"{what}: {found!r} instead of {expected!r}")


def refused(call, code, text):
    try:
        call()
    except grpc.RpcError as error:
        equal(error.code(), code, f"code of {error.details()!r}")
        check(text in error.details(), f"{error.details()!r} does not say {text!r}")
    else:
        raise AssertionError(f"not refused: {text}")


def flows(client):
    equal(client.names(), ALL, "all flows")
    tcp, denied, drop, udp6, icmp = client.flows()
    equal(tcp["source"]["pod_name"], "web", "source")
    equal(tcp["source"]["workloads"], [{"name": "web", "kind": "Deployment"}], "workloads")
    equal(tcp["destination"]["labels"], ["k8s:app=db"], "labels")
    equal(tcp["destination"]["identity"], 301, "identity")
    equal(tcp["IP"], {"source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": 1}, "IP")
    equal(tcp["l4"]["TCP"], {"source_port": 40001, "destination_port": 5432, "flags": {"SYN": True}}, "TCP")
    equal((tcp["verdict"], tcp["Type"], tcp["traffic_direction"]), (1, 1, 1), "enums")
    equal(tcp["event_type"], {"type": 4}, "event type")
    equal((tcp["trace_observation_point"], tcp["trace_reason"]), (101, 1), "trace")
    equal(tcp["is_reply"], {}, "is_reply is false and there")
    equal(tcp["interface"], {"index": 7, "name": "eth0"}, "interface")
    equal((tcp["node_name"], tcp["node_labels"]), ("n1", ["zone=a"]), "node")
    equal(tcp["Summary"], "TCP Flags: SYN", "summary")
    equal(tcp["emitter"]["name"], "Hubble", "emitter")
    equal(tcp["time"], {"seconds": 1}, "time")
    for flow in (denied, drop):
        equal((flow["verdict"], flow["drop_reason"], flow["drop_reason_desc"]), (2, 133, 133), "drop reason")
        policy = {"name": "deny-all", "namespace": "shop", "revision": 3, "kind": "NetworkPolicy"}
        equal(flow["ingress_denied_by"], [policy], "policies")
    check("is_reply" not in drop, "is_reply of a drop is not known")
    equal(udp6["IP"]["ipVersion"], 2, "IPv6")
    equal(icmp["l4"]["ICMPv4"], {"type": 8}, "ICMP")
    equal(icmp["Summary"], "ICMPv4 EchoRequest", "summary of ICMP")
    for answer in client.responses():
        equal((answer["node_name"], answer["time"]), ("n1", answer["flow"]["time"]), "envelope")


def requests(client):
    equal(client.names(number=2), ALL[3:], "last two")
    equal(client.names(number=2, first=True), ALL[:2], "first two")
    equal(client.names(since={"seconds": 3}), ["udp6", "icmp"], "since")
    equal(client.names(until={"seconds": 1}), ["tcp"], "until")
    equal(client.names(since={"seconds": 2}, number=1), ["denied"], "since with number")
    equal(client.names(whitelist=[{"verdict": [2]}], blacklist=[{"event_type": [{"type": 1}]}]), ["denied"], "lists")
    equal(client.names(blacklist=[{}]), [], "an empty filter matches everything")
    uuid = client.flows(number=1)[0]["uuid"]
    equal(client.names(whitelist=[{"uuid": [uuid]}]), ["icmp"], "uuid")
    equal(client.names(whitelist=[{"uuid": ["x"]}]), [], "another uuid")
    masked = client.flows(number=1, field_mask={"paths": ["source.pod_name", "l7"]})
    equal(masked, [{"source": {"pod_name": "web"}}], "mask")
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    refused(lambda: client.flows(first=True, follow=True), invalid, "first cannot be specified with follow")
    refused(lambda: client.flows(field_mask={"paths": ["nope"]}), invalid, "invalid fieldmask")
    refused(lambda: client.flows(since={"nanos": 2_000_000_000}), invalid, "since")
    call = client.channel.unary_stream("/observer.Observer/GetFlows")
    call = call(encode("GetFlowsRequest", {"follow": True, "number": 1}), timeout=SECONDS)
    equal(name_of(decode("GetFlowsResponse", next(call))["flow"]), "icmp", "follow rewinds")
    metadata = dict(call.initial_metadata())
    equal(metadata["hubble-server-version"], "1.2.3", "version header")
    equal(metadata["specola-coverage"], "whole", "coverage header")
    call.cancel()


def filters(client):
    tested = {field for field, *_ in FILTERS} | {"uuid"}
    from wire import fields

    equal({name for name, *_ in fields("FlowFilter")} - tested, set(), "filters without a test")
    for field, value, expected, none in FILTERS:
        if value is not None:
            equal(client.names(whitelist=[{field: value}]), expected, f"{field}={value}")
            rest = [name for name in ALL if name not in expected]
            equal(client.names(blacklist=[{field: value}]), rest, f"not {field}={value}")
        equal(client.names(whitelist=[{field: none}]), [], f"{field}={none}")
    for values, text in REFUSED:
        refused(lambda: client.flows(whitelist=[values]), grpc.StatusCode.INVALID_ARGUMENT, text)


def others(client):
    observer = "/observer.Observer/"
    status = client.unary(observer + "ServerStatus", "ServerStatusRequest", "ServerStatusResponse")
    equal((status["num_flows"], status["max_flows"], status["seen_flows"]), (5, 64, 5), "status")
    equal(status["version"], "specola v1.2.3", "version")
    check(status["uptime_ns"] > 0 and "num_connected_nodes" not in status, "status of a node")
    nodes = client.unary(observer + "GetNodes", "GetNodesRequest", "GetNodesResponse")["nodes"]
    equal([(n["name"], n["state"], n["address"]) for n in nodes], [("n1", 1, "10.0.0.254:4244")], "nodes")
    spaces = client.unary(observer + "GetNamespaces", "GetNamespacesRequest", "GetNamespacesResponse")
    equal(spaces, {"namespaces": [{"namespace": "shop"}]}, "namespaces")
    method = (observer + "GetAgentEvents", "GetAgentEventsRequest", "GetAgentEventsResponse")
    events = [answer["agent_event"] for answer in client.stream(*method)]
    policy = {"labels": ["k8s:a=b"], "revision": 7, "rule_count": 2}
    ipcache = {"cidr": "10.0.0.1/32", "identity": 300, "old_identity": {"value": 5}, "namespace": "shop", "pod_name": "web"}
    equal(events, [
        {"type": 2, "agent_start": {"time": {"seconds": 1}}},
        {"type": 3, "policy_update": policy},
        {"type": 5, "endpoint_regenerate": {"id": 8, "labels": ["k8s:app=db"]}},
        {"type": 7, "endpoint_update": {"id": 8, "pod_name": "db", "namespace": "shop"}},
        {"type": 9, "ipcache_update": ipcache},
    ], "agent events")
    last = client.stream(*method, {"number": 1, "follow": True}, take=1)
    equal(last[0]["agent_event"]["type"], 9, "the last agent event")
    debug = (observer + "GetDebugEvents", "GetDebugEventsRequest", "GetDebugEventsResponse")
    refused(lambda: client.stream(*debug), grpc.StatusCode.UNIMPLEMENTED, "no debug events")
    peers = client.stream("/peer.Peer/Notify", "NotifyRequest", "ChangeNotification", take=1)
    equal(peers, [{"name": "n1", "address": "10.0.0.254:4244", "type": 1}], "peers")
    for service in ("", "hubble.server.Observer"):
        health = client.unary(
            "/grpc.health.v1.Health/Check", "HealthCheckRequest", "HealthCheckResponse", {"service": service}
        )
        equal(health, {"status": 1}, "health")
    for version in ("v1", "v1alpha"):
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        call = client.channel.stream_stream(method)
        asked = iter([encode("ServerReflectionRequest", {"list_services": "*"})])
        answer = decode("ServerReflectionResponse", next(call(asked, timeout=SECONDS)))
        names = {service["name"] for service in answer["list_services_response"]["service"]}
        check({"observer.Observer", "peer.Peer", "grpc.health.v1.Health"} <= names, f"services: {names}")


def main():
    for target in sys.argv[1:]:
        client = Client(target)
        for part in (flows, requests, filters, others):
            part(client)
            print(f"{target}: {part.__name__} ok")


if __name__ == "__main__":
    sys.exit(main())
