"""Protobuf by hand: messages are dicts, field numbers come from the tables below.

The tables are typed from the documentation of Hubble's API, not made from our .proto files, so that a wrong number in
those cannot agree with itself. Decoding is strict: a field that no table has is an error.
"""

import struct

# name: "field=number:type ...". A type is a scalar, `enum`, or a message; `*` before it says repeated.
TABLES = {
    "Timestamp": "seconds=1:int64 nanos=2:int32",
    "BoolValue": "value=1:bool",
    "UInt32Value": "value=1:uint32",
    "Int32Value": "value=1:int32",
    "FieldMask": "paths=1:*string",
    "Any": "type_url=1:string value=2:bytes",
    # flow
    "Flow": "time=1:Timestamp uuid=34:string emitter=41:Emitter verdict=2:enum drop_reason=3:uint32 auth_type=35:enum "
    "ethernet=4:Ethernet IP=5:IP l4=6:Layer4 tunnel=39:Tunnel source=8:Endpoint destination=9:Endpoint Type=10:enum "
    "node_name=11:string node_labels=37:*string source_names=13:*string destination_names=14:*string l7=15:Layer7 "
    "reply=16:bool event_type=19:CiliumEventType source_service=20:Service destination_service=21:Service "
    "traffic_direction=22:enum policy_match_type=23:uint32 trace_observation_point=24:enum trace_reason=36:enum "
    "file=38:FileInfo ip_trace_id=40:IPTraceID drop_reason_desc=25:enum is_reply=26:BoolValue "
    "debug_capture_point=27:enum interface=28:NetworkInterface proxy_port=29:uint32 trace_context=30:TraceContext "
    "sock_xlate_point=31:enum socket_cookie=32:uint64 cgroup_id=33:uint64 Summary=100000:string extensions=150000:Any "
    "egress_allowed_by=21001:*Policy ingress_allowed_by=21002:*Policy egress_denied_by=21004:*Policy "
    "ingress_denied_by=21005:*Policy policy_log=21006:*string aggregate=21007:Aggregate",
    "Emitter": "name=1:string version=2:string",
    "FileInfo": "name=1:string line=2:uint32",
    "Endpoint": "ID=1:uint32 identity=2:uint32 namespace=3:string labels=4:*string pod_name=5:string "
    "workloads=6:*Workload cluster_name=7:string",
    "Workload": "name=1:string kind=2:string",
    "Service": "name=1:string namespace=2:string",
    "Layer4": "TCP=1:TCP UDP=2:UDP ICMPv4=3:ICMP ICMPv6=4:ICMP SCTP=5:UDP VRRP=6:VRRP IGMP=7:IGMP",
    "TCP": "source_port=1:uint32 destination_port=2:uint32 flags=3:TCPFlags",
    "UDP": "source_port=1:uint32 destination_port=2:uint32",
    "ICMP": "type=1:uint32 code=2:uint32",
    "VRRP": "type=1:uint32 vrid=2:uint32 priority=3:uint32",
    "IGMP": "type=1:uint32 group_address=2:string",
    "TCPFlags": "FIN=1:bool SYN=2:bool RST=3:bool PSH=4:bool ACK=5:bool URG=6:bool ECE=7:bool CWR=8:bool NS=9:bool",
    "IP": "source=1:string destination=2:string ipVersion=3:enum encrypted=4:bool source_xlated=5:string",
    "Ethernet": "source=1:string destination=2:string",
    "Tunnel": "protocol=1:enum IP=2:IP l4=3:Layer4 vni=4:uint32",
    "Layer7": "type=1:enum latency_ns=2:uint64 dns=100:DNS http=101:HTTP kafka=102:Kafka",
    "DNS": "query=1:string ips=2:*string ttl=3:uint32 cnames=4:*string observation_source=5:string rcode=6:uint32 "
    "qtypes=7:*string rrtypes=8:*string",
    "HTTP": "code=1:uint32 method=2:string url=3:string protocol=4:string headers=5:*HTTPHeader",
    "Kafka": "error_code=1:int32 api_version=2:int32 api_key=3:string correlation_id=4:int32 topic=5:string",
    "HTTPHeader": "key=1:string value=2:string",
    "TraceContext": "parent=1:TraceParent",
    "TraceParent": "trace_id=1:string",
    "IPTraceID": "trace_id=1:uint64 ip_option_type=2:uint32",
    "Policy": "name=1:string namespace=2:string labels=3:*string revision=4:uint64 kind=5:string",
    "NetworkInterface": "index=1:uint32 name=2:string",
    "CiliumEventType": "type=1:int32 sub_type=2:int32",
    "EventTypeFilter": "type=1:int32 match_sub_type=2:bool sub_type=3:int32",
    "Aggregate": "ingress_flow_count=1:uint32 egress_flow_count=2:uint32 unknown_direction_flow_count=3:uint32",
    "LostEvent": "source=1:enum num_events_lost=2:uint64 cpu=3:Int32Value first=4:Timestamp last=5:Timestamp",
    "AgentEvent": "type=1:enum unknown=100:AgentEventUnknown agent_start=101:TimeNotification "
    "policy_update=102:PolicyUpdateNotification endpoint_regenerate=103:EndpointRegenNotification "
    "endpoint_update=104:EndpointUpdateNotification ipcache_update=105:IPCacheNotification",
    "AgentEventUnknown": "type=1:string notification=2:string",
    "TimeNotification": "time=1:Timestamp",
    "PolicyUpdateNotification": "labels=1:*string revision=2:uint64 rule_count=3:int64",
    "EndpointRegenNotification": "id=1:uint64 labels=2:*string error=3:string",
    "EndpointUpdateNotification": "id=1:uint64 labels=2:*string error=3:string pod_name=4:string namespace=5:string",
    "IPCacheNotification": "cidr=1:string identity=2:uint32 old_identity=3:UInt32Value host_ip=4:string "
    "old_host_ip=5:string encrypt_key=6:uint32 namespace=7:string pod_name=8:string",
    "FlowFilter": "source_ip=1:*string source_pod=2:*string destination_ip=3:*string destination_pod=4:*string "
    "verdict=5:*enum event_type=6:*EventTypeFilter source_fqdn=7:*string destination_fqdn=8:*string "
    "http_status_code=9:*string source_label=10:*string destination_label=11:*string protocol=12:*string "
    "source_port=13:*string destination_port=14:*string reply=15:*bool source_service=16:*string "
    "destination_service=17:*string dns_query=18:*string source_identity=19:*uint32 destination_identity=20:*uint32 "
    "http_method=21:*string http_path=22:*string tcp_flags=23:*TCPFlags node_name=24:*string ip_version=25:*enum "
    "source_workload=26:*Workload destination_workload=27:*Workload trace_id=28:*string uuid=29:*string "
    "traffic_direction=30:*enum http_url=31:*string http_header=32:*HTTPHeader drop_reason_desc=33:*enum "
    "source_ip_xlated=34:*string interface=35:*NetworkInterface node_labels=36:*string "
    "source_cluster_name=37:*string destination_cluster_name=38:*string ip_trace_id=39:*uint64 encrypted=40:*bool "
    "experimental=999:FilterExperimental",
    "FilterExperimental": "cel_expression=1:*string",
    # observer, relay, peer, health
    "ServerStatusRequest": "",
    "ServerStatusResponse": "num_flows=1:uint64 max_flows=2:uint64 seen_flows=3:uint64 uptime_ns=4:uint64 "
    "num_connected_nodes=5:UInt32Value num_unavailable_nodes=6:UInt32Value unavailable_nodes=7:*string "
    "version=8:string flows_rate=9:double",
    "GetFlowsRequest": "number=1:uint64 follow=3:bool blacklist=5:*FlowFilter whitelist=6:*FlowFilter "
    "since=7:Timestamp until=8:Timestamp first=9:bool field_mask=10:FieldMask extensions=150000:Any",
    "GetFlowsResponse": "flow=1:Flow node_status=2:NodeStatusEvent lost_events=3:LostEvent node_name=1000:string "
    "time=1001:Timestamp",
    "NodeStatusEvent": "state_change=1:enum node_names=2:*string message=3:string",
    "GetAgentEventsRequest": "number=1:uint64 follow=2:bool since=7:Timestamp until=8:Timestamp first=9:bool",
    "GetAgentEventsResponse": "agent_event=1:AgentEvent node_name=1000:string time=1001:Timestamp",
    "GetDebugEventsRequest": "number=1:uint64 follow=2:bool since=7:Timestamp until=8:Timestamp first=9:bool",
    "GetDebugEventsResponse": "node_name=1000:string time=1001:Timestamp",
    "GetNodesRequest": "",
    "GetNodesResponse": "nodes=1:*Node",
    "Node": "name=1:string version=2:string address=3:string state=4:enum tls=5:NodeTLS uptime_ns=6:uint64 "
    "num_flows=7:uint64 max_flows=8:uint64 seen_flows=9:uint64",
    "NodeTLS": "enabled=1:bool server_name=2:string",
    "GetNamespacesRequest": "",
    "GetNamespacesResponse": "namespaces=1:*Namespace",
    "Namespace": "cluster=1:string namespace=2:string",
    "NotifyRequest": "",
    "ChangeNotification": "name=1:string address=2:string type=3:enum tls=4:PeerTLS",
    "PeerTLS": "server_name=1:string",
    "HealthCheckRequest": "service=1:string",
    "HealthCheckResponse": "status=1:enum",
    "ServerReflectionRequest": "host=1:string file_by_filename=3:string file_containing_symbol=4:string "
    "list_services=7:string",
    "ServerReflectionResponse": "valid_host=1:string original_request=2:ServerReflectionRequest "
    "list_services_response=6:ListServiceResponse",
    "ListServiceResponse": "service=1:*ServiceResponse",
    "ServiceResponse": "name=1:string",
}

VARINTS = {"bool", "uint32", "uint64", "int32", "int64", "enum"}


def fields(message):
    """(name, number, type, repeated) of each field of a message."""
    for entry in TABLES[message].split():
        name, rest = entry.split("=")
        number, kind = rest.split(":")
        yield name, int(number), kind.lstrip("*"), kind.startswith("*")


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def chunk(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def encode_value(number, kind, value):
    if kind in VARINTS:
        return varint(number << 3) + varint(int(value))
    if kind == "string":
        return chunk(number, value.encode())
    if kind == "bytes":
        return chunk(number, value)
    return chunk(number, encode(kind, value))


def encode(message, values):
    """Bytes of a message given as a dict; a field that the table does not have is an error."""
    known = {name: rest for name, *rest in fields(message)}
    out = b""
    for name, value in values.items():
        number, kind, repeated = known[name]
        if repeated and kind in VARINTS:
            out += chunk(number, b"".join(varint(int(item)) for item in value))
            continue
        for item in value if repeated else [value]:
            out += encode_value(number, kind, item)
    return out


def decode_scalar(kind, value):
    if kind == "bool":
        return bool(value)
    if kind in ("int32", "int64") and value >= 1 << 63:
        return value - (1 << 64)
    return value


def decode(message, data):
    """A message as a dict of what is set. Unknown fields and wrong wire types are errors."""
    known = {number: (name, kind, repeated) for name, number, kind, repeated in fields(message)}
    out, at = {}, 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, wire = key >> 3, key & 7
        if number not in known:
            raise ValueError(f"{message} has no field {number} (wire type {wire})")
        name, kind, repeated = known[number]
        if wire == 0 and kind in VARINTS:
            value, at = read_varint(data, at)
            values = [decode_scalar(kind, value)]
        elif wire == 1 and kind == "double":
            values, at = [struct.unpack_from("<d", data, at)[0]], at + 8
        elif wire == 2 and kind != "double":
            length, at = read_varint(data, at)
            payload, at = data[at : at + length], at + length
            if len(payload) != length:
                raise ValueError(f"{message}.{name} is cut off")
            values = decode_payload(kind, payload)
        else:
            raise ValueError(f"{message}.{name} has wire type {wire}")
        if repeated:
            out.setdefault(name, []).extend(values)
        else:
            out[name] = values[-1]
    return out


def decode_payload(kind, payload):
    if kind == "string":
        return [payload.decode()]
    if kind == "bytes":
        return [payload]
    if kind in VARINTS:
        values, at = [], 0
        while at < len(payload):
            value, at = read_varint(payload, at)
            values.append(decode_scalar(kind, value))
        return values
    return [decode(kind, payload)]
