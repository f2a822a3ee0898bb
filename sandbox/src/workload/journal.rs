//! The record of every connection that a pod made or took, one JSON line each.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One connection, written when it ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Connection {
    /// When it began.
    pub time: jiff::Timestamp,
    /// Namespace of the pod that writes the record.
    pub namespace: String,
    /// Name of that pod.
    pub pod: String,
    /// Which side it is.
    pub kind: Kind,
    /// Address of the side that connects.
    pub src: String,
    /// Port of that side.
    pub sport: u16,
    /// Address of the side that is connected to.
    pub dst: String,
    /// Port of that side.
    pub dport: u16,
    /// "TCP" or "UDP".
    pub proto: String,
    /// How it ended.
    pub result: Outcome,
    /// Payload that this side sent.
    pub bytes_sent: u64,
    /// Payload that this side received.
    pub bytes_received: u64,
}

/// Which side writes the record.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The client.
    Connect,
    /// The server.
    Accept,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Made, answered, and closed by both sides.
    Ok,
    /// Answered with a reset, or an ICMP error.
    Refused,
    /// Not answered in time.
    Timeout,
    /// Broken off.
    Reset,
    /// The machine could not even try: no route, no such name.
    Unreachable,
}

/// Appends records to a pod's file.
#[derive(Debug)]
pub(crate) struct Journal {
    namespace: String,
    pod: String,
    path: PathBuf,
    file: Mutex<File>,
}

/// The part of a record that a workload knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub time: jiff::Timestamp,
    pub kind: Kind,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub proto: &'static str,
    pub result: Outcome,
    pub sent: u64,
    pub received: u64,
}

impl Journal {
    /// # Errors
    /// When the file cannot be opened for appending.
    pub(crate) fn open(path: &Path, namespace: &str, pod: &str) -> anyhow::Result<Self> {
        let file = append(path).with_context(|| format!("cannot open the journal {}", path.display()))?;
        let (namespace, pod, path) = (namespace.to_owned(), pod.to_owned(), path.to_owned());
        Ok(Self { namespace, pod, path, file: Mutex::new(file) })
    }

    /// Writes one line; a failure goes to standard error, which is the pod's log.
    pub(crate) fn record(&self, entry: Entry) {
        if let Err(error) = self.try_record(entry) {
            eprintln!("cannot write the journal: {error}");
        }
    }

    fn try_record(&self, entry: Entry) -> std::io::Result<()> {
        let record = Connection {
            time: entry.time,
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            kind: entry.kind,
            src: entry.source.ip().to_canonical().to_string(),
            sport: entry.source.port(),
            dst: entry.destination.ip().to_canonical().to_string(),
            dport: entry.destination.port(),
            proto: entry.proto.to_owned(),
            result: entry.result,
            bytes_sent: entry.sent,
            bytes_received: entry.received,
        };
        let mut line = serde_json::to_string(&record)?;
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.metadata()?.len() > LONGEST {
            fs::rename(&self.path, older(&self.path))?;
            *file = append(&self.path)?;
        }
        file.write_all(line.as_bytes())
    }
}

/// Reads a journal with what was put aside of it. A last line without its end is left out: it is being written.
///
/// # Errors
/// When a file cannot be read or a line is no record.
pub fn read(path: &Path) -> anyhow::Result<Vec<Connection>> {
    let mut connections = Vec::new();
    for path in [older(path), path.to_owned()] {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read the journal {}", path.display()));
            }
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let record = serde_json::from_str(line);
            connections.push(record.with_context(|| format!("{} holds no record: {line}", path.display()))?);
        }
    }
    Ok(connections)
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Where a journal that has grown too long is put aside; the one before goes.
fn older(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

/// /run is memory: a journal and its older part stay below twice this.
const LONGEST: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("connections.jsonl");
        assert!(read(&path).expect("absent file").is_empty());
        let journal = Journal::open(&path, "shop", "frontend").expect("journal");
        journal.record(Entry {
            time: jiff::Timestamp::UNIX_EPOCH,
            kind: Kind::Connect,
            source: "[::ffff:10.0.0.1]:4000".parse().expect("address"),
            destination: "10.0.0.2:80".parse().expect("address"),
            proto: "TCP",
            result: Outcome::Timeout,
            sent: 1,
            received: 2,
        });
        let mut file = OpenOptions::new().append(true).open(&path).expect("journal file");
        file.write_all(b"{\"time\":").expect("half a line");
        let records = read(&path).expect("journal");
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].src.as_str(), records[0].sport, records[0].dport), ("10.0.0.1", 4000, 80));
        assert_eq!(records[0].result, Outcome::Timeout);
    }

    #[test]
    fn a_long_journal_is_put_aside_and_still_read() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("connections.jsonl");
        let journal = Journal::open(&path, "shop", "frontend").expect("journal");
        let address: SocketAddr = "10.0.0.1:1".parse().expect("address");
        let entry = |sport| Entry {
            time: jiff::Timestamp::UNIX_EPOCH,
            kind: Kind::Accept,
            source: SocketAddr::new(address.ip(), sport),
            destination: address,
            proto: "UDP",
            result: Outcome::Ok,
            sent: 0,
            received: 0,
        };
        journal.record(entry(1));
        // A hole makes it long without writing so much.
        let file = OpenOptions::new().write(true).open(&path).expect("journal file");
        let first = file.metadata().expect("size").len();
        file.set_len(LONGEST + 1).expect("a long file");
        journal.record(entry(2));
        assert!(older(&path).exists());
        file.set_len(first).expect("without the hole");
        let ports: Vec<u16> = read(&path).expect("both files").iter().map(|one| one.sport).collect();
        assert_eq!(ports, [1, 2]);
    }
}
