use clap::{Arg, ArgAction, Command};

use super::*;

fn settings(personality: Personality, file: SettingsFile) -> Settings {
    Settings { personality, path: PathBuf::from("/c.yaml"), file }
}

fn read(text: &str) -> SettingsFile {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, text).unwrap();
    SettingsFile::read(&path).unwrap()
}

#[test]
fn a_file_is_read_and_written_back() {
    let file = read(
        "# mine\ntls: true\nserver: relay:80\ntimeout: 5s\nport-forward-port: 0\ntls-ca-cert-files: [a, b]\nother: {a: [1]}\n",
    );
    let expected = "port-forward-port: \"0\"\nserver: relay:80\ntimeout: 5s\ntls: true\ntls-ca-cert-files:\n- a\n- b\nother: {\"a\":[1]}\n";
    assert_eq!(file.to_string(), expected);
    assert_eq!(read(&file.to_string()), file);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/config.yaml");
    let hard = file.with("basic-auth-password", Value::Text("no: \"#1\"\n".to_owned()));
    hard.write(&path).unwrap();
    assert_eq!(SettingsFile::read(&path).unwrap(), hard);
    for absent in ["", "# nothing\n\n"] {
        assert_eq!(read(absent), SettingsFile::default());
    }
    assert_eq!(SettingsFile::read(&dir.path().join("absent")).unwrap(), SettingsFile::default());
}

#[test]
fn texts_that_yaml_would_take_for_something_else_are_quoted() {
    for text in ["true", "12", "a b", "x: y", "", "- a", "null", "1e3", "#c", "a:", "12h34", "*x", "-5s"] {
        let file = SettingsFile::default().with("server", Value::Text(text.to_owned()));
        assert_eq!(read(&file.to_string()), file, "{text:?}");
    }
    for plain in ["localhost:4245", "unix:///run/x.sock", "5s", "1m30s", "kube-system"] {
        let file = SettingsFile::default().with("server", Value::Text(plain.to_owned()));
        assert_eq!(file.to_string(), format!("server: {plain}\n"));
        assert_eq!(read(&file.to_string()), file, "{plain}");
    }
}

#[test]
fn values_are_checked_by_their_key() {
    for (name, text, good) in [
        ("tls", "1", true),
        ("tls", "yes", false),
        ("timeout", "1m30s", true),
        ("timeout", "0s", false),
        ("timeout", "5", false),
        ("port-forward-port", "0", true),
        ("port-forward-port", "70000", false),
        ("tls-ca-cert-files", "a, b", true),
        ("server", "anything", true),
    ] {
        let key = Key::find(name).unwrap();
        assert_eq!(key.parse(text).is_ok(), good, "{name} {text}");
    }
    let wrong = settings(Personality::Specola, read("timeout: never\n"));
    let error = wrong.apply(Command::new("x")).unwrap_err().to_string();
    assert!(error.starts_with("/c.yaml: timeout: \"never\" is no duration"), "{error}");
    assert!(Key::find("tls").unwrap().check(&Value::List(Vec::new())).is_err());
    let list = Key::find("tls-ca-cert-files").unwrap();
    assert_eq!(list.parse("a, b,").unwrap(), Value::List(vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn keys_are_sorted_and_their_defaults_are_good() {
    assert!(KEYS.is_sorted_by(|one, next| one.name < next.name));
    for key in KEYS {
        assert!(key.check(&key.default_value(Personality::Hubble)).is_ok(), "{}", key.name);
    }
}

#[test]
fn settings_are_defaults_of_flags_except_for_daemons() {
    let tree = || {
        let args = || {
            [
                Arg::new("server").long("server"),
                Arg::new("tls").long("tls").action(ArgAction::SetTrue),
                Arg::new("allowlist").long("allowlist").action(ArgAction::Append),
            ]
        };
        Command::new("x")
            .subcommand(Command::new("list").subcommand(Command::new("nodes").args(args())))
            .subcommand(Command::new("agent").args(args()))
    };
    let file = read("server: relay:80\ntls: true\nallowlist: ['{}', '{\"a\":1}']\n");
    let command = settings(Personality::Specola, file).apply(tree()).unwrap();
    let of = |arguments: &[&str]| {
        let mut matches = command.clone().get_matches_from(arguments);
        while let Some((_, inner)) = matches.remove_subcommand() {
            matches = inner;
        }
        let server = matches.get_one::<String>("server").cloned();
        let allow = matches.get_many::<String>("allowlist").map_or(0, Iterator::count);
        (server, matches.get_flag("tls"), allow)
    };
    assert_eq!(of(&["x", "list", "nodes"]), (Some("relay:80".to_owned()), true, 2));
    assert_eq!(of(&["x", "list", "nodes", "--server", "y:1"]).0.as_deref(), Some("y:1"));
    assert_eq!(of(&["x", "agent"]), (None, false, 0));
    let hubble = settings(Personality::Hubble, SettingsFile::default()).apply(tree()).unwrap();
    let matches = hubble.get_matches_from(["x", "list", "nodes"]);
    let nodes = matches.subcommand().unwrap().1.subcommand().unwrap().1;
    assert_eq!(nodes.get_one::<String>("server").unwrap(), HUBBLE_SERVER);
}

#[test]
fn the_file_may_be_named_on_the_command_line() {
    let of = |arguments: &[&str]| named_file(&arguments.iter().map(OsString::from).collect::<Vec<_>>());
    assert_eq!(of(&["observe", "--config", "/a"]), Some(PathBuf::from("/a")));
    assert_eq!(of(&["--config=/b", "observe"]), Some(PathBuf::from("/b")));
    assert_eq!(of(&["observe", "--", "--config", "/a"]), None);
    assert_eq!(of(&["observe"]), None);
}
