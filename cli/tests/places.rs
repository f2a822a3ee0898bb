//! The commands that look at pins, as a process, where there are none.
#![forbid(unsafe_code)]

use std::process::{Command, Output, Stdio};

fn specola(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_specola"));
    command.args(arguments).stdin(Stdio::null()).output().expect("specola runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unused_pin_directory_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let absent = dir.path().join("absent").display().to_string();
    for table in ["policy", "ct", "ipcache", "endpoint", "metrics", "prog"] {
        let output = specola(&["bpf", table, "list", "--pin-dir", &absent]);
        assert_eq!(output.status.code(), Some(1), "{table}");
        let said = said(&output);
        assert!(said.starts_with("error: nothing is pinned in ") && said.contains("--sandbox"), "{said}");
    }
}

#[test]
fn places_exclude_each_other() {
    for arguments in [
        &["bpf", "ct", "list", "--node", "n1"][..],
        &["bpf", "ct", "list", "--sandbox", "a", "--pin-dir", "/x"],
        &["bpf", "policy", "list", "70000"],
    ] {
        assert_eq!(specola(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
