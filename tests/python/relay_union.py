"""What a relay answers is what its nodes answer, together and in order of time.

usage: relay_union.py UNTIL RELAY NODE...   gRPC targets; UNTIL is a time, seconds since 1970, by which the flows are made
"""

import sys

import grpc

from wire import decode, encode

SECONDS = 60


def responses(target, values):
    options = [("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", 16 << 20)]
    call = grpc.insecure_channel(target, options=options).unary_stream("/observer.Observer/GetFlows")
    answers = call(encode("GetFlowsRequest", values), timeout=SECONDS)
    return [decode("GetFlowsResponse", data) for data in answers]


def flows(target, **values):
    return [answer for answer in responses(target, values) if "flow" in answer]


def key(answer):
    return answer["flow"]["uuid"]


def time(answer):
    return answer["time"].get("seconds", 0), answer["time"].get("nanos", 0)


def compare(what, relay, nodes, **values):
    union = {}
    for node in nodes:
        for answer in flows(node, **values):
            assert key(answer) not in union, f"{what}: {key(answer)} is at two nodes"
            union[key(answer)] = answer
    relayed = flows(relay, **values)
    assert union, f"{what}: the nodes have nothing"
    assert len({key(answer) for answer in relayed}) == len(relayed), f"{what}: something came twice"
    missing, more = union.keys() - {key(a) for a in relayed}, {key(a) for a in relayed} - union.keys()
    assert not missing and not more, f"{what}: {len(missing)} are missing, {len(more)} are no node's"
    for answer in relayed:
        assert answer == union[key(answer)], f"{what}: {answer} is {union[key(answer)]} at its node"
    assert [time(a) for a in relayed] == sorted(time(a) for a in relayed), f"{what}: out of order"
    print(f"{what}: {len(relayed)} flows ok")


def main():
    until, relay, nodes = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    until = {"seconds": until}
    compare("all", relay, nodes, until=until)
    compare("drops", relay, nodes, until=until, whitelist=[{"verdict": [2]}])
    compare("all but drops", relay, nodes, until=until, blacklist=[{"verdict": [2]}])
    compare("TCP", relay, nodes, until=until, whitelist=[{"protocol": ["tcp"]}])


main()
