//! The record of every connection that a pod made or took, one JSON line each.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One connection, written when it ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Connection {
    /// When it began.
    pub time: jiff::Timestamp,
    /// The pod that writes the record.
    pub namespace: String,
    pub pod: String,
    pub kind: Kind,
    /// Address and port of the side that connects.
    pub src: String,
    pub sport: u16,
    pub dst: String,
    pub dport: u16,
    /// "TCP" or "UDP".
    pub proto: String,
    pub result: Outcome,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// Which side writes the record.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Connect,
    Accept,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Refused,
    Timeout,
    Reset,
    /// The machine could not even try: no route, no such name.
    Unreachable,
}

/// Appends records to a pod's file.
#[derive(Debug)]
pub(crate) struct Journal {
    namespace: String,
    pod: String,
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
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open the journal {}", path.display()))?;
        Ok(Self { namespace: namespace.to_owned(), pod: pod.to_owned(), file: Mutex::new(file) })
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
        file.write_all(line.as_bytes())
    }
}

/// Reads a journal. A last line without its end is left out: it is being written.
///
/// # Errors
/// When the file cannot be read or a line is no record.
pub fn read(path: &Path) -> anyhow::Result<Vec<Connection>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the journal {}", path.display()));
        }
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("{} holds a line that is no record: {line}", path.display()))
        })
        .collect()
}

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
}
