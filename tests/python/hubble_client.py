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
    if kind == 129:
        (record,) = flow["l7"].keys() & {"http", "dns", "kafka"}
        return {"http": ("get", "ok"), "dns": ("query", "answer"), "kafka": ("produce", "produced")}[record][
            flow["l7"]["type"] - 1
        ]
    l4 = flow.get("l4", {})
    if "UDP" in l4:
        return "udp6"
    if "ICMPv4" in l4:
        return "icmp"
    return {1: "drop", 4: "tcp", 5: "denied"}[kind]


PACKETS = ["tcp", "denied", "drop", "udp6", "icmp"]
REQUESTS = ["get", "query", "produce"]
RESPONSES = ["ok", "answer", "produced"]
L7 = ["get", "ok", "query", "answer", "produce", "produced"]
ALL = PACKETS + L7


def all_but(*names):
    return [name for name in ALL if name not in names]


# From web to db, and of pods at all.
OUT = [name for name in all_but(*RESPONSES) if name != "udp6"]
PODS = all_but("udp6")
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"

# field of FlowFilter, value that matches, names of the flows that match, value that matches none
FILTERS = [
    ("source_ip", ["10.0.0.1"], OUT, ["10.0.0.9"]),
    ("source_ip", ["fd00::/8"], ["udp6"], ["fe80::/10"]),
    ("destination_ip", ["10.0.0.0/30"], PODS, ["10.1.0.0/16"]),
    ("destination_ip", ["10.0.0.2"], OUT, ["10.0.0.3"]),
    ("source_ip_xlated", ["192.0.2.0/24"], ["get"], ["192.0.2.1"]),
    ("source_pod", ["shop/web"], OUT, ["web"]),
    ("source_pod", ["/db"], RESPONSES, ["bank/"]),
    ("destination_pod", ["/db"], OUT, ["shop/cache"]),
    ("source_fqdn", ["*.shop.svc"], ["ok"], ["*.bank.svc"]),
    ("destination_fqdn", ["web.shop.svc", "db.*.svc"], ["get"], ["web.*"]),
    ("source_label", ["k8s:app in (web)"], OUT, ["app=cache"]),
    ("destination_label", ["app=db,!tier"], OUT, ["app=db,tier"]),
    ("source_service", ["shop/db"], ["ok"], ["shop/web"]),
    ("destination_service", ["shop/db"], ["get"], ["bank/db"]),
    ("source_workload", [{"name": "web", "kind": "Deployment"}], OUT, [{"kind": "Job"}]),
    ("destination_workload", [{"name": "db"}], OUT, [{"name": "d"}]),
    ("source_cluster_name", ["default"], PODS, ["defaul*"]),
    ("destination_cluster_name", ["x", "default"], PODS, ["x"]),
    ("traffic_direction", [1], PACKETS, [0]),
    ("traffic_direction", [2], L7, [0]),
    ("verdict", [2], ["denied", "drop"], [3]),
    ("verdict", [5], ["produce"], [4]),
    ("drop_reason_desc", [133], ["denied", "drop"], [181]),
    ("interface", [{"name": "eth0"}], ["tcp", "udp6", "icmp"], [{"name": "eth1"}]),
    ("interface", [{"index": 7}], ["tcp", "udp6", "icmp"], [{"index": 8}]),
    ("event_type", [{"type": 5}], ["denied"], [{"type": 3}]),
    ("event_type", [{"type": 129}], L7, [{"type": 129, "match_sub_type": True, "sub_type": 1}]),
    ("event_type", [{"type": 1, "match_sub_type": True, "sub_type": 133}], ["drop"], [{"type": 1, "match_sub_type": True}]),
    ("http_status_code", ["2+"], ["ok"], ["5+"]),
    ("http_status_code", ["404", "200"], ["ok"], ["404"]),
    ("http_method", ["get"], ["get", "ok"], ["POST"]),
    ("http_path", ["^/api/v[12]$"], ["get", "ok"], ["page"]),
    ("http_url", ["^http://db\\.shop.*page=7"], ["get", "ok"], ["^https:"]),
    ("http_header", [{"key": "Host", "value": "db.shop"}], ["get"], [{"key": "host", "value": "db.shop"}]),
    ("dns_query", ["^db\\.shop\\."], ["query", "answer"], ["^web"]),
    ("protocol", ["tcp"], ["tcp", "denied", "drop", "get", "ok", "produce", "produced"], ["sctp"]),
    ("protocol", ["icmp", "udp"], ["udp6", "icmp", "query", "answer"], ["icmpv6"]),
    ("protocol", ["HTTP"], ["get", "ok"], ["vrrp"]),
    ("protocol", ["dns", "kafka"], ["query", "answer", "produce", "produced"], ["igmp"]),
    ("source_port", ["40002"], ["denied", "drop"], ["1"]),
    ("destination_port", ["53", "80"], ["udp6", "get", "query"], ["22"]),
    ("reply", [False], all_but(*RESPONSES), None),
    ("reply", [True], RESPONSES, None),
    ("encrypted", [False], all_but("get"), None),
    ("encrypted", [True], ["get"], None),
    ("tcp_flags", [{"SYN": True}], ["tcp", "denied", "drop"], [{"SYN": True, "ACK": True}]),
    ("node_name", ["default/n*"], ALL, ["other/n1"]),
    ("node_labels", ["zone=a"], ALL, ["zone=b"]),
    ("ip_version", [2], ["udp6"], [0]),
    ("trace_id", [TRACE_ID], ["get", "ok"], [TRACE_ID[:-1]]),
    ("ip_trace_id", [0], all_but("get"), [8]),
    ("ip_trace_id", [7], ["get"], [70]),
    ("source_identity", [300], OUT, [1]),
    ("destination_identity", [301], OUT, [1]),
    ("experimental", {"cel_expression": ["_flow.l4.UDP.destination_port == 53u"]}, ["udp6", "query"], {"cel_expression": ["false"]}),
    ("experimental", {"cel_expression": ["_flow.l7.http.code == 200u"]}, ["ok"], {"cel_expression": ["_flow.l7.latency_ns > 9000000u"]}),
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
    tcp, denied, drop, udp6, icmp, *l7 = client.flows()
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
    requests_and_responses(*l7)
    for answer in client.responses():
        equal((answer["node_name"], answer["time"]), ("n1", answer["flow"]["time"]), "envelope")


def requests_and_responses(get, ok, query, answer, produce, produced):
    headers = [{"key": "Accept", "value": "*/*"}, {"key": "Host", "value": "db.shop"}]
    url = "http://db.shop/api/v1?page=7"
    http = {"method": "GET", "url": url, "protocol": "HTTP/1.1", "headers": headers}
    equal(get["l7"], {"type": 1, "http": http}, "HTTP request")
    answered = {**http, "code": 200, "headers": [{"key": "Server", "value": "x"}]}
    equal(ok["l7"], {"type": 2, "latency_ns": 5_900_000, "http": answered}, "HTTP response")
    equal(get["Summary"], f"HTTP/1.1 GET {url}", "summary of a request")
    equal(ok["Summary"], f"HTTP/1.1 200 5ms (GET {url})", "summary of a response")
    for flow in (get, ok):
        equal((flow["Type"], flow["event_type"], flow["verdict"]), (2, {"type": 129}, 1), "kind")
        equal(flow["trace_context"], {"parent": {"trace_id": TRACE_ID}}, "trace context")
    equal(get["l4"]["TCP"], {"source_port": 40010, "destination_port": 80}, "ports without flags")
    equal((get["is_reply"], ok["is_reply"], ok["reply"]), ({}, {"value": True}, True), "replies")
    equal((get["destination_names"], ok["source_names"]), (["db.shop.svc"], ["db.shop.svc"]), "names")
    service = {"name": "db", "namespace": "shop"}
    equal((get["destination_service"], ok["source_service"]), (service, service), "services")
    equal((get["IP"]["encrypted"], get["IP"]["source_xlated"]), (True, "192.0.2.9"), "translation")
    equal(get["ip_trace_id"], {"trace_id": 7, "ip_option_type": 68}, "IP trace id")
    equal(get["source"]["pod_name"], "web", "source of a request")
    equal(ok["source"]["labels"], ["k8s:app=db"], "source of a response")
    dns = {"query": "db.shop.", "observation_source": "proxy", "qtypes": ["A"]}
    equal(query["l7"], {"type": 1, "dns": dns}, "DNS query")
    found = {**dns, "ips": ["10.0.0.2"], "ttl": 30, "cnames": ["db-0.shop."], "rrtypes": ["CNAME", "A"]}
    equal(answer["l7"], {"type": 2, "dns": found}, "DNS answer")
    equal(query["Summary"], "DNS Query db.shop. A", "summary of a query")
    equal(answer["Summary"], 'DNS Answer "10.0.0.2" TTL: 30 CNAMEs: "db-0.shop." (Proxy db.shop. A)', "of an answer")
    kafka = {"api_version": 7, "api_key": "produce", "correlation_id": 5, "topic": "orders"}
    equal(produce["l7"], {"type": 1, "kafka": kafka}, "Kafka request")
    equal(produced["l7"], {"type": 2, "latency_ns": 9, "kafka": {**kafka, "error_code": -1}}, "Kafka response")
    equal(produced["Summary"], "Kafka response produce correlation id 5 topic 'orders' return code -1", "of Kafka")
    policy = {"name": "deny-all", "namespace": "shop", "revision": 3, "kind": "NetworkPolicy"}
    equal(produce["egress_allowed_by"], [policy], "rules behind a request")


def requests(client):
    equal(client.names(number=2), ALL[-2:], "last two")
    equal(client.names(number=2, first=True), ALL[:2], "first two")
    equal(client.names(since={"seconds": 3}), ALL[3:], "since")
    equal(client.names(until={"seconds": 1}), ["tcp"], "until")
    equal(client.names(since={"seconds": 2}, number=1), ["denied"], "since with number")
    equal(client.names(whitelist=[{"verdict": [2]}], blacklist=[{"event_type": [{"type": 1}]}]), ["denied"], "lists")
    equal(client.names(blacklist=[{}]), [], "an empty filter matches everything")
    uuid = client.flows(number=1)[0]["uuid"]
    equal(client.names(whitelist=[{"uuid": [uuid]}]), ["produced"], "uuid")
    equal(client.names(whitelist=[{"uuid": ["x"]}]), [], "another uuid")
    masked = client.flows(number=1, first=True, field_mask={"paths": ["source.pod_name", "l7"]})
    equal(masked, [{"source": {"pod_name": "web"}}], "mask")
    masked = client.flows(number=1, field_mask={"paths": ["l7.kafka.topic", "uuid"]})
    equal(masked, [{"uuid": uuid, "l7": {"kafka": {"topic": "orders"}}}], "mask of a request's part")
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    refused(lambda: client.flows(first=True, follow=True), invalid, "first cannot be specified with follow")
    refused(lambda: client.flows(field_mask={"paths": ["nope"]}), invalid, "invalid fieldmask")
    refused(lambda: client.flows(since={"nanos": 2_000_000_000}), invalid, "since")
    call = client.channel.unary_stream("/observer.Observer/GetFlows")
    call = call(encode("GetFlowsRequest", {"follow": True, "number": 1}), timeout=SECONDS)
    equal(name_of(decode("GetFlowsResponse", next(call))["flow"]), "produced", "follow rewinds")
    metadata = dict(call.initial_metadata())
    equal(metadata["hubble-server-version"], "1.2.3", "version header")
    equal(metadata["specola-coverage"], "whole", "coverage header")
    call.cancel()


def filters(client):
    tested = {field for field, *_ in FILTERS} | {"uuid"}
    from wire import fields

    equal({name for name, *_ in fields("FlowFilter")} - tested, set(), "filters without a test")
    for field, value, expected, none in FILTERS:
        equal(client.names(whitelist=[{field: value}]), expected, f"{field}={value}")
        equal(client.names(blacklist=[{field: value}]), all_but(*expected), f"not {field}={value}")
        if none is not None:
            equal(client.names(whitelist=[{field: none}]), [], f"{field}={none}")
    for values, text in REFUSED:
        refused(lambda: client.flows(whitelist=[values]), grpc.StatusCode.INVALID_ARGUMENT, text)


def others(client):
    observer = "/observer.Observer/"
    status = client.unary(observer + "ServerStatus", "ServerStatusRequest", "ServerStatusResponse")
    equal((status["num_flows"], status["max_flows"], status["seen_flows"]), (11, 64, 11), "status")
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
