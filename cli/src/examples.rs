//! Examples in the help of commands whose definitions have none of their own.

use clap::Command;

/// Adds the examples of the table below to a tree of commands.
pub(crate) fn with_examples(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (path, text)| {
        let path: Vec<_> = path.split(' ').collect();
        at(command, &path, text)
    })
}

fn at(command: Command, path: &[&str], text: &'static str) -> Command {
    let Some((first, rest)) = path.split_first() else {
        let text = format!("Examples:\n{text}");
        let after = command.get_after_help().map(|own| format!("{own}\n\n{text}")).unwrap_or(text);
        return command.after_help(after);
    };
    command.mut_subcommand(*first, |command| at(command, rest, text))
}

/// Commands and their examples.
const EXAMPLES: &[(&str, &str)] = &[
    ("endpoint list", "  specola endpoint list\n  specola endpoint list --sandbox shop -o json"),
    (
        "endpoint get",
        "  specola endpoint get shop/frontend --sandbox shop\n  specola endpoint get 10.1.0.7 -o json",
    ),
    ("identity list", "  specola identity list\n  specola identity list --sandbox shop -o json"),
    ("identity get", "  specola identity get 256\n  specola identity get world"),
    ("bpf policy list", "  specola bpf policy list\n  specola bpf policy list 17 --sandbox shop --node n1"),
    ("bpf ct list", "  specola bpf ct list\n  specola bpf ct list --sandbox shop -o json"),
    ("bpf ipcache list", "  specola bpf ipcache list\n  specola bpf ipcache list --sandbox shop --node n1"),
    ("bpf endpoint list", "  specola bpf endpoint list --sandbox shop"),
    ("bpf metrics list", "  specola bpf metrics list --sandbox shop -o json"),
    ("bpf prog list", "  specola bpf prog list"),
    ("metrics list", "  specola metrics list\n  specola metrics list -o json"),
    ("metrics cardinality", "  specola metrics cardinality --sandbox shop"),
    ("host-policy panic-off", "  specola host-policy panic-off"),
    ("host-policy panic-on", "  specola host-policy panic-on"),
    ("host-policy status", "  specola host-policy status -o json"),
    ("sandbox up", "  specola sandbox up examples/sandbox/shop.yaml"),
    ("sandbox down", "  specola sandbox down\n  specola sandbox down --name shop"),
    ("sandbox ps", "  specola sandbox ps"),
    (
        "sandbox exec",
        "  specola sandbox exec shop/frontend -- ip addr\n  specola sandbox exec --node n1 -- ip route",
    ),
    ("sandbox logs", "  specola sandbox logs node/n1 -f\n  specola sandbox logs shop/frontend --connections"),
    ("sandbox apply", "  specola sandbox apply policy.yaml"),
    ("sandbox delete", "  specola sandbox delete CiliumNetworkPolicy/shop/db Pod/shop/frontend"),
    ("sandbox kill", "  specola sandbox kill --node n1"),
    ("sandbox start", "  specola sandbox start --node n1"),
    ("sandbox demo", "  specola sandbox demo examples/sandbox/shop.yaml"),
    (
        "agent",
        "  specola agent --devices auto\n  specola agent --synthetic 1000 --observer-socket /tmp/n1.sock --metrics-listen none",
    ),
    (
        "relay",
        "  specola relay --peer-service unix:///run/specola/observer.sock\n  \
         specola relay --peers n1=unix:///tmp/n1.sock,n2=10.0.0.2:4244 --listen-address 127.0.0.1:4245",
    ),
];
