//! What to export, and where to.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use specola_flow::{FilterSet, FlowMask, InvalidFilter, InvalidMask};
use specola_proto::flow::FlowFilter;

/// Why a configuration of exporters cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExportConfigError {
    /// A filter cannot be compiled.
    #[error("exporter {name}: {cause}")]
    Filter {
        /// The exporter.
        name: String,
        /// What is wrong.
        cause: InvalidFilter,
    },
    /// A mask names no field.
    #[error("exporter {name}: {cause}")]
    Mask {
        /// The exporter.
        name: String,
        /// What is wrong.
        cause: InvalidMask,
    },
    /// Filters that are no JSON.
    #[error("read flow filters: {0}; give JSON objects with spaces or commas between them")]
    Json(#[from] serde_json::Error),
    /// The file is no such configuration.
    #[error("read the exporters' configuration: {0}")]
    Yaml(String),
    /// Something is missing.
    #[error("flowLogs[{index}]: {field} is missing")]
    Missing {
        /// Which entry.
        index: usize,
        /// The field.
        field: &'static str,
    },
    /// Two exporters that would meet.
    #[error("two exporters have the {field} \"{value}\": give each its own")]
    Twice {
        /// `name` or `filePath`.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// More than [`MAX_EXPORTERS`].
    #[error("{0} exporters are too many: {MAX_EXPORTERS} at most")]
    TooMany(usize),
}

/// Each has a thread and a cursor.
pub(super) const MAX_EXPORTERS: usize = 32;

/// Where to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl Output {
    /// `stdout`, or a path.
    pub fn parse(text: &str) -> Self {
        if text == "stdout" { Self::Stdout } else { Self::File(text.into()) }
    }
}

/// One exporter.
#[derive(Clone, Debug, PartialEq)]
pub struct ExporterSpec {
    /// Its name.
    pub name: String,
    /// Where to.
    pub output: Output,
    /// Paths of the fields to write; none = all.
    pub field_mask: Vec<String>,
    /// Flows to write; none = all.
    pub include: Vec<FlowFilter>,
    /// Flows to leave out.
    pub exclude: Vec<FlowFilter>,
    /// Size from which a file is put aside, MB.
    pub max_size_mb: u64,
    /// Files put aside that are kept.
    pub max_backups: usize,
    /// Whether files put aside are compressed (gzip).
    pub compress: bool,
    /// When it stops, ns since 1970.
    pub end_ns: Option<u64>,
    /// Fields in which flows must be equal to be written as one; none = each is written.
    pub aggregate: Vec<String>,
    /// How often such flows are written, ns; 0 = each is written.
    pub aggregation_interval_ns: u64,
}

impl ExporterSpec {
    /// An exporter of everything, with the sizes that Hubble has by default.
    pub fn new(name: &str, output: Output) -> Self {
        Self {
            name: name.to_owned(),
            output,
            field_mask: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            max_size_mb: 10,
            max_backups: 5,
            compress: false,
            end_ns: None,
            aggregate: Vec::new(),
            aggregation_interval_ns: 0,
        }
    }

    /// Whether two run as the same exporter: the order of a mask says nothing.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let sorted = |spec: &Self| {
            let mut spec = spec.clone();
            spec.field_mask.sort();
            spec.field_mask.dedup();
            spec
        };
        sorted(self) == sorted(other)
    }

    pub(super) fn filters(&self) -> Result<FilterSet, ExportConfigError> {
        FilterSet::compile(&self.include, &self.exclude)
            .map_err(|cause| ExportConfigError::Filter { name: self.name.clone(), cause })
    }

    pub(super) fn mask(&self, paths: &[String]) -> Result<Option<FlowMask>, ExportConfigError> {
        FlowMask::compile(paths).map_err(|cause| ExportConfigError::Mask { name: self.name.clone(), cause })
    }

    /// Reads a file of the form `flowLogs: [{name, filePath, ...}]`.
    ///
    /// # Errors
    /// The file is refused whole when any entry is wrong.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, ExportConfigError> {
        let file: FlowLogs =
            serde_saphyr::from_str(text).map_err(|error| ExportConfigError::Yaml(error.to_string()))?;
        let entries = file.flow_logs.into_iter().enumerate();
        let specs: Vec<Self> = entries.map(|(index, entry)| entry.spec(index)).collect::<Result<_, _>>()?;
        check(&specs)?;
        Ok(specs)
    }
}

/// Checks a set of exporters.
pub(super) fn check(specs: &[ExporterSpec]) -> Result<(), ExportConfigError> {
    if specs.len() > MAX_EXPORTERS {
        return Err(ExportConfigError::TooMany(specs.len()));
    }
    for (index, spec) in specs.iter().enumerate() {
        if specs[..index].iter().any(|other| other.name == spec.name) {
            return Err(ExportConfigError::Twice { field: "name", value: spec.name.clone() });
        }
        if let Output::File(path) = &spec.output
            && specs[..index].iter().any(|other| other.output == spec.output)
        {
            return Err(ExportConfigError::Twice { field: "filePath", value: path.display().to_string() });
        }
        spec.filters()?;
        spec.mask(&spec.field_mask)?;
        spec.mask(&spec.aggregate)?;
    }
    Ok(())
}

/// Reads flow filters: JSON objects one after another, with spaces or commas between them.
///
/// # Errors
/// The text is no JSON, or an object is no flow filter.
pub fn parse_filters(text: &str) -> Result<Vec<FlowFilter>, ExportConfigError> {
    let mut filters = Vec::new();
    let mut rest = text.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    while !rest.is_empty() {
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<FlowFilter>();
        if let Some(filter) = stream.next() {
            filters.push(filter?);
        }
        let used = stream.byte_offset();
        rest = rest[used..].trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }
    Ok(filters)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FlowLogs {
    #[serde(default)]
    flow_logs: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    file_path: String,
    #[serde(default)]
    field_mask: Vec<String>,
    #[serde(default)]
    include_filters: Vec<FlowFilter>,
    #[serde(default)]
    exclude_filters: Vec<FlowFilter>,
    file_max_size_mb: Option<u64>,
    file_max_backups: Option<usize>,
    #[serde(default)]
    file_compress: bool,
    end: Option<Timestamp>,
    #[serde(default)]
    field_aggregate: Vec<String>,
    #[serde(default)]
    aggregation_interval: Option<jiff::SignedDuration>,
}

impl Entry {
    fn spec(self, index: usize) -> Result<ExporterSpec, ExportConfigError> {
        let missing = |field| ExportConfigError::Missing { index, field };
        if self.name.is_empty() {
            return Err(missing("name"));
        }
        if self.file_path.is_empty() {
            return Err(missing("filePath"));
        }
        let interval = self.aggregation_interval.map_or(0, |interval| interval.as_nanos().max(0));
        let standard = ExporterSpec::new(&self.name, Output::parse(&self.file_path));
        Ok(ExporterSpec {
            field_mask: self.field_mask,
            include: self.include_filters,
            exclude: self.exclude_filters,
            max_size_mb: self.file_max_size_mb.unwrap_or(standard.max_size_mb).max(1),
            max_backups: self.file_max_backups.unwrap_or(standard.max_backups),
            compress: self.file_compress,
            end_ns: self.end.map(|end| u64::try_from(end.as_nanosecond()).unwrap_or(0)),
            aggregate: self.field_aggregate,
            aggregation_interval_ns: u64::try_from(interval).unwrap_or(u64::MAX),
            ..standard
        })
    }
}
