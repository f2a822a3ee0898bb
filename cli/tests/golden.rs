//! Every form of the output, made of recorded flows, against files that were written from the description of Hubble's
//! client. A difference is shown whole; `UPDATE_GOLDEN=1` writes what came instead, to be read before it is kept.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Prints the recorded answers, and compares both outputs with the file.
fn check(name: &str, program: &[&str], arguments: &[&str]) {
    let program = [program, &["observe"]].concat();
    check_command(name, &program, arguments);
}

fn check_command(name: &str, program: &[&str], arguments: &[&str]) {
    let what =
        if arguments.first().is_some_and(|first| first.ends_with("-events")) { "events" } else { "flows" };
    let input = golden(&format!("{what}.json")).display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_specola"));
    command.args(program).args(arguments).args(["--input-file", &input]);
    command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    let output = command.output().expect("specola runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text = format!("{out}--- stderr, exit code {:?}\n{err}", output.status.code());
    let path = golden(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{name} should be:\n{expected}\nand is:\n{text}");
}

macro_rules! golden {
    ($test:ident: $($argument:literal)*) => {
        #[test]
        fn $test() {
            check(&format!("{}.txt", stringify!($test).replace('_', "-")), &[], &[$($argument),*]);
        }
    };
    ($test:ident as hubble: $($argument:literal)*) => {
        #[test]
        fn $test() {
            check(&format!("{}.txt", stringify!($test).replace('_', "-")), &["hubble"], &[$($argument),*]);
        }
    };
}

/// Maps of the same flows.
macro_rules! golden_map {
    ($test:ident: $($argument:literal)*) => {
        #[test]
        fn $test() {
            check_command(&format!("{}.txt", stringify!($test).replace('_', "-")), &["map"], &[$($argument),*]);
        }
    };
}

golden_map!(map_text: "--by" "pod");
golden_map!(map_dot: "-o" "dot");
golden_map!(map_mermaid: "-o" "mermaid");
golden_map!(map_json: "-o" "json" "--by" "namespace");
golden_map!(map_dropped: "--verdict" "DROPPED" "--all");

golden!(compact:);
golden!(compact_hubble as hubble: "--print-policy-names");
golden!(compact_nodes: "--print-node-name" "--print-policy-names");
golden!(compact_color: "--color" "always");
golden!(compact_numeric: "--numeric");
golden!(compact_debug: "--debug" "--last" "1");
golden!(compact_silent: "--silent-errors" "--first" "1");
golden!(compact_rfc3339: "--time-format" "RFC3339Nano" "--last" "2");
golden!(dict: "-o" "dict" "--print-node-name");
golden!(dict_color: "-o" "dict" "--color" "always" "--first" "2");
golden!(table: "-o" "table");
golden!(table_nodes: "-o" "tab" "--print-node-name");
golden!(json: "-o" "json");
golden!(jsonpb_hubble as hubble: "-o" "jsonpb" "--verdict" "DROPPED");
golden!(csv: "-o" "csv");
golden!(ndjson: "-o" "ndjson");
golden!(filtered: "--verdict" "DROPPED" "--type" "drop");
golden!(agent_events: "agent-events");
golden!(agent_events_nodes: "agent-events" "--print-node-name");
golden!(agent_events_dict: "agent-events" "-o" "dict");
golden!(agent_events_table: "agent-events" "-o" "table");
golden!(agent_events_json: "agent-events" "-o" "json");
golden!(debug_events: "debug-events");
golden!(debug_events_dict: "debug-events" "-o" "dict");
golden!(debug_events_table: "debug-events" "-o" "table" "--print-node-name");
golden!(debug_events_json: "debug-events" "-o" "jsonpb");
