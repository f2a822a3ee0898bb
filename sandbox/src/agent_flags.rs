//! Flags that are passed on to the agents as they are.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use specola_policy::ParseOptions;

/// Flags that are passed on to the agents as they are.
#[derive(Args, Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct AgentFlags {
    /// Accept fromNodes and toNodes in policies
    #[arg(long)]
    pub enable_node_selector_labels: bool,
    /// Accept the protocols VRRP and IGMP in policies
    #[arg(long)]
    pub enable_extended_ip_protocols: bool,
    /// Accept ClusterNetworkPolicy of Kubernetes
    #[arg(long)]
    pub enable_k8s_cluster_network_policy: bool,
    /// Whether a node may always reach its pods: auto and always = yes, policy = as policies say [default: auto]
    #[arg(long, value_enum, value_name = "RULE")]
    pub allow_localhost: Option<LocalhostRule>,
    /// Flows that each agent keeps in memory, 64 to 16777216 [default: 4096]
    #[arg(long, value_name = "FLOWS", value_parser = clap::value_parser!(u32).range(64..=1 << 24))]
    pub ring_size: Option<u32>,
}

/// Whether a node may always reach its pods.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LocalhostRule {
    /// As Kubernetes needs it: always
    Auto,
    /// Always
    Always,
    /// As policies say
    Policy,
}

impl AgentFlags {
    /// Parts of the policy language that are on.
    pub(crate) const fn language(&self) -> ParseOptions {
        ParseOptions {
            node_selector_labels: self.enable_node_selector_labels,
            extended_protocols: self.enable_extended_ip_protocols,
            cluster_network_policy: self.enable_k8s_cluster_network_policy,
        }
    }

    /// The flags, for a command line.
    pub(crate) fn args(&self) -> Vec<OsString> {
        let switches = [
            ("--enable-node-selector-labels", self.enable_node_selector_labels),
            ("--enable-extended-ip-protocols", self.enable_extended_ip_protocols),
            ("--enable-k8s-cluster-network-policy", self.enable_k8s_cluster_network_policy),
        ];
        let mut args: Vec<OsString> =
            switches.iter().filter(|(_, is_on)| *is_on).map(|(flag, _)| flag.into()).collect();
        if let Some(rule) = self.allow_localhost.and_then(|rule| rule.to_possible_value()) {
            args.extend(["--allow-localhost".into(), rule.get_name().into()]);
        }
        if let Some(size) = self.ring_size {
            args.extend(["--ring-size".into(), size.to_string().into()]);
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: AgentFlags,
    }

    #[test]
    fn flags_are_passed_on_as_they_were_given() {
        let given = [
            "--enable-node-selector-labels",
            "--enable-extended-ip-protocols",
            "--enable-k8s-cluster-network-policy",
            "--allow-localhost",
            "policy",
            "--ring-size",
            "65536",
        ];
        for flags in [&given[..], &[], &given[..1], &given[5..]] {
            let program = Program::try_parse_from(["p"].iter().chain(flags)).expect("parses");
            assert_eq!(program.flags.args(), flags);
        }
        assert!(Program::try_parse_from(["p", "--ring-size", "1"]).is_err());
    }
}
