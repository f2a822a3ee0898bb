//! `specola ingest` on captures that are made here: no rights, no agent, equal input gives equal output.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flate2::{Compression, write::GzEncoder};
use specola_testkit::packet::Frame;

const WEB: &str = "10.0.1.1";
const DB: &str = "10.0.1.2";
const OUTSIDE: &str = "198.51.100.7";

const ENDPOINTS: &str = "\
nodes:
  n1: {ip: 172.20.0.1}
namespaces:
  shop: {}
pods:
  shop/web: {ip: 10.0.1.1, node: n1, labels: {app: web}}
  shop/db: {ip: 10.0.1.2, node: n1, labels: {app: db}}
";

const POLICY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: \"5432\", protocol: TCP}]}]
";

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;

struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("policies")).expect("made");
        std::fs::write(dir.path().join("policies/db.yaml"), POLICY).expect("written");
        std::fs::write(dir.path().join("endpoints.yaml"), ENDPOINTS).expect("written");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }

    fn ingest(&self, capture: &Path, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_specola"))
            .arg("ingest")
            .arg(capture)
            .args(["--policy".as_ref(), self.path("policies").as_os_str()])
            .args(["--endpoints".as_ref(), self.path("endpoints.yaml").as_os_str()])
            .args(args)
            .output()
            .expect("runs")
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// An allowed connection that ends in order, a denied one, one to the outside.
fn frames() -> Vec<Vec<u8>> {
    let there = |flags| Frame::v4(WEB, DB).tcp(40_000, 5432, flags).bytes();
    let back = |flags| Frame::v4(DB, WEB).tcp(5432, 40_000, flags).bytes();
    vec![
        there(SYN),
        back(SYN_ACK),
        there(ACK),
        Frame::v4(WEB, DB).tcp(40_001, 80, SYN).bytes(),
        Frame::v4(OUTSIDE, DB).tcp(40_002, 5432, SYN).bytes(),
        Frame::v4(WEB, OUTSIDE).udp(5353, 53).bytes(),
        there(FIN_ACK),
        back(FIN_ACK),
        there(ACK),
    ]
}

/// Classic pcap, microseconds; `be` chooses the byte order.
fn pcap(frames: &[Vec<u8>], be: bool) -> Vec<u8> {
    let word = |number: u32| if be { number.to_be_bytes() } else { number.to_le_bytes() };
    let half = |number: u16| if be { number.to_be_bytes() } else { number.to_le_bytes() };
    let mut file =
        [word(0xa1b2_c3d4).as_slice(), &half(2), &half(4), &[0; 8], &word(65_535), &word(1)].concat();
    for (at, frame) in frames.iter().enumerate() {
        let length = word(u32::try_from(frame.len()).expect("short"));
        let micros = word(u32::try_from(at).expect("few") * 1_000);
        file.extend([word(1_700_000_000), micros, length, length].concat());
        file.extend(frame);
    }
    file
}

/// The same as pcapng, nanoseconds, with an interface that has a name.
fn pcapng(frames: &[Vec<u8>]) -> Vec<u8> {
    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 12).expect("short").to_le_bytes();
        [&kind.to_le_bytes(), &length[..], body, &length].concat()
    }
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &1_u16.to_le_bytes(), &[0; 2], &[0xff; 8]].concat();
    let options = [2, 0, 4, 0, b'e', b't', b'h', b'7', 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let mut file = block(0x0a0d_0d0a, &section);
    file.extend(block(1, &[&1_u16.to_le_bytes()[..], &[0; 2], &0_u32.to_le_bytes(), &options].concat()));
    for (at, frame) in frames.iter().enumerate() {
        let stamp = 1_700_000_000_000_000_000_u64 + at as u64 * 1_000_000;
        let (high, low) = ((stamp >> 32) as u32, stamp as u32);
        let length = u32::try_from(frame.len()).expect("short");
        let mut body: Vec<u8> =
            [0, high, low, length, length].iter().flat_map(|word| word.to_le_bytes()).collect();
        body.extend(frame);
        body.resize(body.len().next_multiple_of(4), 0);
        file.extend(block(6, &body));
    }
    file
}

#[test]
fn a_capture_gives_the_flows_that_an_agent_would_give() {
    let bed = Bed::new();
    let capture = bed.write("a.pcap", &pcap(&frames(), false));
    let output = bed.ingest(&capture, &["--print-policy-names"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    let has =
        |parts: &[&str]| lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count();
    assert_eq!(
        has(&["shop/web:40000", "shop/db:5432", "policy-verdict", "ALLOWED", "INGRESS", "shop/db"]),
        1,
        "{lines:#?}"
    );
    assert_eq!(has(&["shop/web:40000", "-> shop/db:5432", "policy-verdict", "EGRESS"]), 1, "{lines:#?}");
    assert_eq!(
        has(&["shop/web:40001", "shop/db:80", "policy-verdict", "DENIED", "INGRESS"]),
        1,
        "{lines:#?}"
    );
    assert_eq!(has(&["shop/web:40001", "shop/db:80", "DROPPED", "Policy denied"]), 1, "{lines:#?}");
    assert_eq!(has(&[OUTSIDE, "shop/db:5432", "DENIED", "INGRESS"]), 1, "{lines:#?}");
    assert_eq!(has(&["shop/web:5353", &format!("{OUTSIDE}:53"), "to-stack", "FORWARDED"]), 1, "{lines:#?}");
    let dropped = bed.ingest(&capture, &["--verdict", "DROPPED"]);
    assert_eq!(text(&dropped.stdout).lines().count(), 4, "two denied packets, two flows each");
    let audited = bed.ingest(&capture, &["--policy-audit-mode"]);
    assert!(text(&audited.stdout).contains("AUDITED") && !text(&audited.stdout).contains("DROPPED"));
}

#[test]
fn equal_input_gives_equal_bytes_in_every_container() {
    let bed = Bed::new();
    let capture = bed.write("le.pcap", &pcap(&frames(), false));
    let first = bed.ingest(&capture, &["-o", "json"]);
    assert!(first.status.success() && text(&first.stdout).lines().count() > 10, "{first:?}");
    for _ in 0..3 {
        assert_eq!(bed.ingest(&capture, &["-o", "json"]).stdout, first.stdout);
    }
    let big = bed.write("be.pcap", &pcap(&frames(), true));
    assert_eq!(text(&bed.ingest(&big, &["-o", "json"]).stdout), text(&first.stdout));
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(&pcap(&frames(), false)).expect("a vector takes all");
    let zipped = bed.write("le.pcap.gz", &zipped.finish().expect("a vector takes all"));
    assert_eq!(bed.ingest(&zipped, &["-o", "json"]).stdout, first.stdout);
    // The other container names the interface.
    let ng = bed.write("a.pcapng", &pcapng(&frames()));
    let ng = bed.ingest(&ng, &["-o", "json"]);
    assert!(text(&ng.stdout).contains("\"eth7\""), "{ng:?}");
    assert_eq!(text(&ng.stdout).replace(",\"name\":\"eth7\"", ""), text(&first.stdout));
}

#[test]
fn a_pipe_is_read_as_it_comes() {
    let bed = Bed::new();
    let whole = pcap(&frames(), false);
    let mut child = Command::new(env!("CARGO_BIN_EXE_specola"))
        .args(["ingest", "-", "--numeric"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let first = 24 + 16 + frames()[0].len();
    stdin.write_all(&whole[..first + 7]).expect("taken");
    // Its flow comes though the pipe stays open, in the middle of the second packet.
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("a line");
    assert!(line.contains("10.0.1.1:40000"), "{line}");
    drop(stdin);
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("read to its end");
    let status = child.wait().expect("ends");
    assert_eq!(status.code(), Some(1), "the file ends within a record");
    drop(bed);
}

#[test]
fn damage_is_told_with_its_place() {
    let bed = Bed::new();
    let whole = pcap(&frames(), false);
    for (name, bytes, says) in [
        ("empty", Vec::new(), "neither a pcap nor a pcapng"),
        ("text", b"hello, I am no capture at all".to_vec(), "neither a pcap nor a pcapng"),
        (
            "cut",
            whole[..whole.len() - 5].to_vec(),
            "after packet 8, at byte 572: the file ends within a record",
        ),
        ("long", [&whole[..24 + 8], &[0xff; 8], &[0; 1 << 10]].concat(), "the file ends within a record"),
    ] {
        let output = bed.ingest(&bed.write(name, &bytes), &[]);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        assert!(text(&output.stderr).contains(says), "{name}: {}", text(&output.stderr));
    }
    // A capture that kept 40 bytes of each packet lacks TCP headers: 14 + 20 + 20 are needed.
    let mut short = whole[..24].to_vec();
    for frame in frames() {
        let (had, kept) = (u32::try_from(frame.len()).expect("short"), 40_u32);
        short.extend([1_700_000_000, 0, kept, had].iter().flat_map(|word: &u32| word.to_le_bytes()));
        short.extend(&frame[..40]);
    }
    let output = bed.ingest(&bed.write("snap", &short), &[]);
    assert!(output.status.success());
    let said = text(&output.stderr);
    assert!(said.contains("9 packets were left out") && said.contains("packet 1, at byte 24"), "{said}");
}

#[test]
fn wrong_documents_are_refused_whole() {
    let bed = Bed::new();
    let capture = bed.write("a.pcap", &pcap(&frames(), false));
    for (name, contents, says) in [
        ("endpoints.yaml", "pods: {a/b: {ip: 10.0.0.1}, a/c: {ip: 10.0.0.1}}", "10.0.0.1 is a/b's already"),
        ("endpoints.yaml", "pods: {a/b: {labels: {}}}", "a/b: no address"),
        ("endpoints.yaml", "podz: {}", "endpoints.yaml:1"),
        (
            "policies/db.yaml",
            "kind: CiliumNetworkPolicy\napiVersion: cilium.io/v2\nmetadata: {name: x}\nspec: {ingres: []}\n",
            "refused",
        ),
    ] {
        let before = std::fs::read(bed.path(name)).expect("there");
        bed.write(name, contents.as_bytes());
        let output = bed.ingest(&capture, &[]);
        assert_eq!(output.status.code(), Some(1), "{contents}");
        assert!(output.stdout.is_empty() && text(&output.stderr).contains(says), "{}", text(&output.stderr));
        bed.write(name, &before);
    }
    let unknown = bed.ingest(&capture, &["--node", "n9"]);
    assert!(text(&unknown.stderr).contains("--node n9"), "{unknown:?}");
}

#[test]
fn the_summary_counts_verdicts_drops_and_pairs() {
    let bed = Bed::new();
    let capture = bed.write("a.pcap", &pcap(&frames(), false));
    let output = bed.ingest(&capture, &["--summary"]);
    let said = text(&output.stdout);
    for part in
        ["packets      9", "2  POLICY_DENIED by shop/db", "shop/web -> shop/db:5432", "connections  2"]
    {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
}
