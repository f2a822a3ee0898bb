//! Bad YAML is refused with its place; what was good stays in force.

#[path = "common/fixtures.rs"]
mod fixtures;

use std::process::Command;

use fixtures::{ALLOW_CLIENTS, CLUSTER, yaml};
use serde_json::Value;
use specola_tests::Sandbox;
use specola_tests::sandbox::{PATIENCE, check, specola};

const SERVER: &str = "http://server.shop:8080/";

#[test]
fn a_bad_policy_is_refused_with_file_line_and_field_and_the_good_one_stays() {
    let allow_near = ALLOW_CLIENTS.replace("role: client", "app: near");
    let sandbox = Sandbox::up("bad-yaml", &yaml(&[CLUSTER, &allow_near]));
    assert_eq!(sandbox.http("shop/near", SERVER), Ok(200));
    let (code, _) = sandbox.http("shop/far", SERVER).expect_err("far is not allowed");
    assert_eq!(code, 28);

    let desired = sandbox.ps()["desired_dir"].as_str().expect("ps names the watched directory").to_owned();
    let broken = ALLOW_CLIENTS.replace("port: '8080'", "port: '99999'");
    std::fs::write(format!("{desired}/broken.yaml"), broken).expect("the directory can be written");
    let admin = sandbox.admin_socket("n1");
    let refused = specola_testkit::eventually("the refusal", PATIENCE, || {
        let text = check(Command::new(specola()).args(["status", "-o", "json", "--admin-socket", &admin]));
        if text.contains("broken.yaml") { Ok(text) } else { Err(text) }
    });
    assert!(refused.contains("broken.yaml:"), "no line: {refused}");
    assert!(refused.contains("toPorts"), "no field: {refused}");
    serde_json::from_str::<Value>(&refused).expect("status -o json is JSON");
    assert_eq!(sandbox.http("shop/near", SERVER), Ok(200), "the good policy stays in force");
    let (code, _) = sandbox.http("shop/far", SERVER).expect_err("the bad one has no effect");
    assert_eq!(code, 28);
}

#[test]
fn policy_validate_names_every_error_and_fails() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("bad.yaml");
    let text =
        ALLOW_CLIENTS.replace("port: '8080'", "port: '99999'").replace("fromEndpoints", "fromEndpointz");
    std::fs::write(&file, text).expect("written");
    let output =
        Command::new(specola()).args(["policy", "validate"]).arg(&file).output().expect("specola starts");
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("bad.yaml:"), "{said}");
    assert!(said.contains("fromEndpointz"), "{said}");

    std::fs::write(&file, ALLOW_CLIENTS).expect("written");
    check(Command::new(specola()).args(["policy", "validate"]).arg(&file));
}
