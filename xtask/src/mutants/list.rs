//! The seeded mistakes.

/// One mistake in one place of the kernel programs.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    /// Below `datapath/`.
    pub(super) file: &'static str,
    /// Text that is there exactly once.
    pub(super) find: &'static str,
    pub(super) replace: &'static str,
    /// What is wrong then.
    pub(super) mistake: &'static str,
}

const fn mutant(
    name: &'static str,
    file: &'static str,
    mistake: &'static str,
    find: &'static str,
    replace: &'static str,
) -> Mutant {
    Mutant { name, file, find, replace, mistake }
}

const POLICY: &str = "ebpf/src/policy.rs";
const CONNTRACK: &str = "ebpf/src/conntrack.rs";
const SPOOF: &str = "ebpf/src/spoof.rs";
const ENDPOINT: &str = "ebpf/src/endpoint.rs";
const HOST: &str = "ebpf/src/host.rs";
const PARSE: &str = "ebpf/src/parse.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "tie rule reversed",
        POLICY,
        "the shorter port prefix wins a tie",
        "any.l4_prefix() > own.l4_prefix()",
        "any.l4_prefix() < own.l4_prefix()",
    ),
    mutant(
        "tie goes to anybody",
        POLICY,
        "entries of equal rank are decided for identity 0",
        "any.l4_prefix() > own.l4_prefix()",
        "any.l4_prefix() >= own.l4_prefix()",
    ),
    mutant(
        "precedence reversed",
        POLICY,
        "an allow beats a deny",
        "any.precedence > own.precedence",
        "any.precedence < own.precedence",
    ),
    mutant(
        "own entry always decides",
        POLICY,
        "an entry of the peer hides a deny of anybody",
        "&& own.precedence == PRECEDENCE_DENY",
        "&& own.precedence != 0",
    ),
    mutant(
        "no entry for anybody",
        POLICY,
        "the lookup with identity 0 is left out",
        "let any = entry(work, trie);",
        "let any: Option<PolicyValue> = None;",
    ),
    mutant(
        "port prefix one bit short",
        POLICY,
        "entries of one port are never found",
        "{ PREFIX_PROTO } else { PREFIX_FULL }",
        "{ PREFIX_PROTO } else { PREFIX_FULL - 1 }",
    ),
    mutant(
        "port in host byte order",
        POLICY,
        "ports are compared the wrong way round",
        "work.policy_port.to_be()",
        "work.policy_port",
    ),
    mutant(
        "direction forgotten",
        POLICY,
        "outgoing packets are judged by ingress entries",
        "work.policy.egress = u8::from(egress);",
        "work.policy.egress = 0;",
    ),
    mutant(
        "default cookies swapped",
        POLICY,
        "a default deny is blamed on the other direction's policies",
        "if egress { state.default_cookie_egress } else { state.default_cookie_ingress }",
        "if egress { state.default_cookie_ingress } else { state.default_cookie_egress }",
    ),
    mutant(
        "deny reported as default deny",
        POLICY,
        "an explicit deny has the reason of a missing allow",
        "        drop::POLICY_DENY\n",
        "        drop::POLICY_DENIED\n",
    ),
    mutant(
        "authentication not asked for",
        POLICY,
        "what needs authentication passes without it",
        "value.auth & AUTH_TYPE_MASK != 0",
        "value.auth & AUTH_TYPE_MASK == 0x7f",
    ),
    mutant(
        "redirect passes",
        POLICY,
        "what needs a proxy passes without one",
        "} else if value.proxy_port_be != 0 {",
        "} else if value.proxy_port_be == 0xffff {",
    ),
    mutant(
        "match type without protocol",
        POLICY,
        "an entry for a whole protocol is reported as one for everything",
        "(1..=8, false) => match_type::L3_PROTO",
        "(1..=8, false) => match_type::L3_ONLY",
    ),
    mutant(
        "old trie is asked",
        POLICY,
        "a change of policy is seen every other time",
        "best(work, 2 * question.endpoint.slot + active, question.peer)",
        "best(work, 2 * question.endpoint.slot + (active & 0), question.peer)",
    ),
    mutant(
        "epoch check skipped",
        POLICY,
        "open connections keep a verdict that policy took back",
        "if CtSide::is_current(stamp, node_epoch, epoch) {",
        "if stamp != 0 {",
    ),
    mutant(
        "node epoch ignored",
        POLICY,
        "open connections keep a verdict about an address that is another's now",
        "if CtSide::is_current(stamp, node_epoch, epoch) {",
        "if CtSide::is_current(stamp & 0xffff_ffff | u64::from(node_epoch) << 32, node_epoch, epoch) {",
    ),
    mutant(
        "deny kept as allow",
        POLICY,
        "the packet after a denied one passes",
        "CtSide::stamp_of(node_epoch, epoch, denied)",
        "CtSide::stamp_of(node_epoch, epoch, false)",
    ),
    mutant(
        "open before the first policy",
        POLICY,
        "an endpoint without a realized policy is not closed",
        "if state.flags & policy_flags::READY == 0 {",
        "if state.flags & policy_flags::READY == 0x80 {",
    ),
    mutant(
        "reply exemption widened",
        POLICY,
        "only the first packet of a connection is judged",
        "if track.state == ct_state::RELATED || work.is(class::SELF) {",
        "if track.state != ct_state::NEW || work.is(class::SELF) {",
    ),
    mutant(
        "answers are exempt",
        POLICY,
        "who only answers goes on after a deny of the connection",
        "if track.state == ct_state::RELATED || work.is(class::SELF) {",
        "if track.state == ct_state::RELATED || track.state == ct_state::REPLY || work.is(class::SELF) {",
    ),
    mutant(
        "answers judged as openers",
        POLICY,
        "an answer needs a policy of its own after a change",
        "let is_reply = track.state == ct_state::REPLY;",
        "let is_reply = track.state == 0xff;",
    ),
    mutant(
        "known verdict outlives its policy",
        POLICY,
        "what a connection remembers as allowed is not compared with the epochs",
        "&& stamp == CtSide::stamp_of(work.node_epoch, EndpointRecord::epoch(word), false)",
        "&& stamp != 0 && stamp & 1 == 0 && word != 1",
    ),
    mutant(
        "responder may open",
        CONNTRACK,
        "a connection the other way on the same ports counts as a reply",
        "if opens && !from_initiator {",
        "if opens && !from_initiator && value.flags == 0xff {",
    ),
    mutant(
        "any error is related",
        CONNTRACK,
        "an ICMP error about nothing known passes",
        "None => Track::none(ct_state::UNKNOWN),",
        "None => Track::none(ct_state::RELATED),",
    ),
    mutant(
        "link address not checked",
        SPOOF,
        "a pod sends as another pod's interface",
        "if work.src_mac() == sender.mac() {",
        "if work.src_mac()[0] == work.src_mac()[0] {",
    ),
    mutant(
        "source address not checked",
        SPOOF,
        "a pod sends from another pod's IPv4 address",
        "own != 0 && src.v4() == own",
        "own != 0",
    ),
    mutant(
        "IPv6 source half checked",
        SPOOF,
        "a pod sends from another pod's IPv6 address",
        "if src.quads().0 == sender.ipv6().0 {",
        "if src.quads().0[0] == sender.ipv6().0[0] {",
    ),
    mutant(
        "forged pod from the network",
        "ebpf/src/from_netdev.rs",
        "somebody outside sends as a pod of this node",
        "if src.slot != 0 || src.flags & ip_flags::LOCAL_NODE != 0 {",
        "if src.flags & ip_flags::LOCAL_NODE != 0 {",
    ),
    mutant(
        "forged pod through the stack",
        SPOOF,
        "somebody outside sends as a pod of this node through a device without programs",
        "    if src.slot != 0 {",
        "    if src.slot == 0xffff {",
    ),
    mutant(
        "receiver is not asked",
        "ebpf/src/deliver.rs",
        "a pod of the same node is not protected by its ingress policy",
        "    decide(work, track, receiver)?;\n    hand_over",
        "    work.event.dst_identity = receiver.record.identity;\n    hand_over",
    ),
    mutant(
        "address hint believed",
        ENDPOINT,
        "a packet goes to a pod that has another address",
        "own != 0 && own == address.v4()",
        "own != 0",
    ),
    mutant(
        "hint for no address",
        ENDPOINT,
        "a pod without IPv4 gets packets to 0.0.0.0",
        "own != 0 && own == address.v4()",
        "own == address.v4()",
    ),
    mutant(
        "IPv6 hint half checked",
        ENDPOINT,
        "a packet goes to a pod whose address is the same in its first quarter",
        "endpoint.ipv6().0 == address.quads().0",
        "endpoint.ipv6().0[0] == address.quads().0[0]",
    ),
    mutant(
        "audited node is closed",
        HOST,
        "what policy would deny the node is dropped in audit mode",
        "let is_strict = is_governed && state.flags & policy_flags::AUDIT == 0;",
        "let is_strict = is_governed;",
    ),
    mutant(
        "panic-off forgotten",
        HOST,
        "a suspended host policy still drops",
        "state.flags & GOVERNED == GOVERNED && !is_suspended()",
        "state.flags & GOVERNED == GOVERNED",
    ),
    mutant(
        "host policy not asked",
        HOST,
        "an enforced host policy lets everything pass",
        "if self.is_governed && !is_dhcp_client(work, question.direction) {",
        "if self.is_governed && question.direction == 9 {",
    ),
    mutant(
        "node cut off from its lease",
        HOST,
        "a closed node cannot renew its address by DHCP",
        "if self.is_governed && !is_dhcp_client(work, question.direction) {",
        "if self.is_governed {",
    ),
    mutant(
        "routed group membership",
        HOST,
        "IGMP from beyond the link passes a closed node",
        "work.event.proto == IGMP && work.hop_limit == 1",
        "work.event.proto == IGMP",
    ),
    mutant(
        "packets of others judged",
        "ebpf/src/to_netdev.rs",
        "what the node forwards counts as its own",
        "if !host::is_own(&work.src, &src, version) {",
        "if !host::is_own(&work.src, &src, version) && version == 0 {",
    ),
    mutant(
        "pods pass the node's policy",
        "ebpf/src/to_host.rs",
        "what pods send to a closed node gets through",
        "host.receive_of_pod(ctx, work)",
        "Ok(())",
    ),
    mutant(
        "node's own egress forgotten",
        "ebpf/src/from_host.rs",
        "what a closed node sends to its pods gets through",
        "if !is_pods && host::is_on() {",
        "if is_pods && host::is_on() {",
    ),
    mutant(
        "forwarded to a pod counts as the node's",
        "ebpf/src/from_host.rs",
        "what the node only forwards to a pod is judged by its own policy",
        "|| !host::is_own(&work.src, &src, version) {",
        "|| work.event.proto == 0 {",
    ),
    mutant(
        "ICMP type forgotten",
        PARSE,
        "every ICMP message is judged as type 0",
        "work.policy_port = u16::from(kind);",
        "work.policy_port = u16::from(kind) & 0x100;",
    ),
];
