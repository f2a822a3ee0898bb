//! Enumerations of Hubble's API, as newtypes over their numbers: a record may hold any number.

use std::fmt;

/// Declares a newtype over `u8` with named numbers.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $constant:ident = $number:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$doc])* pub const $constant: Self = Self($number);)*

            /// The name; `None` for a number that has none.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($text),)*
                    _ => None,
                }
            }

            /// The value with this name, compared without regard to ASCII case.
            pub fn from_name(name: &str) -> Option<Self> {
                $(if name.eq_ignore_ascii_case($text) {
                    return Some(Self($number));
                })*
                None
            }
        }

        impl fmt::Display for $name {
            /// The name, or the number when it has none.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => self.0.fmt(f),
                }
            }
        }
    };
}

numbered! {
    /// What happened to the packet (`flow.Verdict`).
    Verdict {
        /// Not known.
        UNKNOWN = 0 "VERDICT_UNKNOWN",
        /// Passed on.
        FORWARDED = 1 "FORWARDED",
        /// Dropped.
        DROPPED = 2 "DROPPED",
        /// An error while handling it.
        ERROR = 3 "ERROR",
        /// Would have been dropped, but audit mode let it pass.
        AUDIT = 4 "AUDIT",
        /// Sent to the proxy.
        REDIRECTED = 5 "REDIRECTED",
        /// Seen at a socket.
        TRACED = 6 "TRACED",
        /// Translated at a socket.
        TRANSLATED = 7 "TRANSLATED",
    }
}

numbered! {
    /// The kind of event a flow was made from (`event_type.type`).
    EventType {
        /// None.
        UNKNOWN = 0 "unknown",
        /// A drop.
        DROP = 1 "drop",
        /// Debug message.
        DEBUG = 2 "debug",
        /// Captured packet.
        CAPTURE = 3 "capture",
        /// A packet at an observation point.
        TRACE = 4 "trace",
        /// A policy decision.
        POLICY_VERDICT = 5 "policy-verdict",
        /// A packet at a socket.
        TRACE_SOCK = 7 "trace-sock",
        /// A request or response of an application.
        L7 = 129 "l7",
        /// Something the agent did.
        AGENT = 130 "agent",
        /// No flow: events were lost ([`crate::Flow::lost`]). Not one of Hubble's numbers, and never sent.
        LOST = 255 "lost",
    }
}

numbered! {
    /// Relative to the endpoint that the event is about (`flow.TrafficDirection`).
    Direction {
        /// Not known.
        UNKNOWN = 0 "TRAFFIC_DIRECTION_UNKNOWN",
        /// To the endpoint.
        INGRESS = 1 "INGRESS",
        /// From the endpoint.
        EGRESS = 2 "EGRESS",
    }
}

numbered! {
    /// Where a packet was seen: the sub type of a trace event, with its name on the command line.
    ObservationPoint {
        /// Delivered to a local endpoint.
        TO_ENDPOINT = 0 "to-endpoint",
        /// Handed to the proxy.
        TO_PROXY = 1 "to-proxy",
        /// Handed to the host's own stack.
        TO_HOST = 2 "to-host",
        /// Handed to the stack for routing.
        TO_STACK = 3 "to-stack",
        /// Sent into an overlay.
        TO_OVERLAY = 4 "to-overlay",
        /// Left a local endpoint.
        FROM_ENDPOINT = 5 "from-endpoint",
        /// Came from the proxy.
        FROM_PROXY = 6 "from-proxy",
        /// Came from the host's own stack.
        FROM_HOST = 7 "from-host",
        /// Came from the stack.
        FROM_STACK = 8 "from-stack",
        /// Came from an overlay.
        FROM_OVERLAY = 9 "from-overlay",
        /// Came from the network.
        FROM_NETWORK = 10 "from-network",
        /// Sent to the network.
        TO_NETWORK = 11 "to-network",
        /// Came out of encryption.
        FROM_CRYPTO = 12 "from-crypto",
        /// Went into encryption.
        TO_CRYPTO = 13 "to-crypto",
    }
}

impl ObservationPoint {
    /// The number in `flow.TraceObservationPoint`, where to-endpoint is 101 because 0 means unknown.
    pub const fn api_number(self) -> i32 {
        match self.0 {
            0 => 101,
            number @ 1..=13 => number as i32,
            _ => 0,
        }
    }
}

numbered! {
    /// Why a trace was made (`flow.TraceReason`).
    TraceReason {
        /// Not known.
        UNKNOWN = 0 "TRACE_REASON_UNKNOWN",
        /// First packet of a connection.
        NEW = 1 "NEW",
        /// Later packet of the initiator.
        ESTABLISHED = 2 "ESTABLISHED",
        /// Packet of the responder.
        REPLY = 3 "REPLY",
        /// ICMP error about a known connection.
        RELATED = 4 "RELATED",
        /// New connection on a tuple that was closing.
        REOPENED = 5 "REOPENED",
        /// Encapsulated by SRv6.
        SRV6_ENCAP = 6 "SRV6_ENCAP",
        /// Decapsulated by SRv6.
        SRV6_DECAP = 7 "SRV6_DECAP",
        /// Encrypted overlay.
        ENCRYPT_OVERLAY = 8 "ENCRYPT_OVERLAY",
    }
}

numbered! {
    /// What of a policy key matched (`policy_match_type`), with its name on the command line.
    MatchType {
        /// No entry.
        NONE = 0 "none",
        /// Identity.
        L3_ONLY = 1 "L3-Only",
        /// Identity, protocol and port.
        L3_L4 = 2 "L3-L4",
        /// Protocol and port.
        L4_ONLY = 3 "L4-Only",
        /// Any identity, any port.
        ALL = 4 "all",
        /// Identity and protocol.
        L3_PROTO = 5 "L3-Proto",
        /// Protocol.
        PROTO_ONLY = 6 "Proto-Only",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_numbers_and_back() {
        for number in 0..=u8::MAX {
            if let Some(name) = Verdict(number).name() {
                assert_eq!(Verdict::from_name(&name.to_lowercase()), Some(Verdict(number)));
            }
            if let Some(name) = ObservationPoint(number).name() {
                assert_eq!(ObservationPoint::from_name(name), Some(ObservationPoint(number)));
            }
        }
        assert_eq!(EventType::from_name("policy-verdict"), Some(EventType::POLICY_VERDICT));
        assert_eq!(EventType::from_name("nonsense"), None);
        assert_eq!(EventType(77).to_string(), "77");
    }

    #[test]
    fn api_numbers_of_points() {
        for (point, number) in [(0, 101), (1, 1), (11, 11), (13, 13), (14, 0), (255, 0)] {
            assert_eq!(ObservationPoint(point).api_number(), number, "{point}");
        }
    }
}
