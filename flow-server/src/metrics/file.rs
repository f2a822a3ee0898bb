//! The metrics configuration as a file that may change at any time.

use serde::Deserialize;
use specola_proto::flow::FlowFilter;

use super::config::{MetricName, MetricSpec, MetricsConfigError, check_set, known_names};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    metrics: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    context_options: Vec<ContextOption>,
    #[serde(default)]
    include_filters: Vec<FlowFilter>,
    #[serde(default)]
    exclude_filters: Vec<FlowFilter>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextOption {
    name: String,
    #[serde(default)]
    values: Vec<String>,
}

impl MetricSpec {
    /// Reads a file of the form `metrics: [{name, contextOptions: [{name, values}], includeFilters, excludeFilters}]`.
    ///
    /// Returns the metrics, and warnings about names and options that do not exist.
    ///
    /// # Errors
    /// The file is refused whole when any entry is wrong.
    pub fn parse_file(text: &str) -> Result<(Vec<Self>, Vec<String>), MetricsConfigError> {
        let file: File =
            serde_saphyr::from_str(text).map_err(|error| MetricsConfigError::Yaml(error.to_string()))?;
        let (mut specs, mut warnings) = (Vec::new(), Vec::new());
        for (index, entry) in file.metrics.into_iter().enumerate() {
            if entry.name.is_empty() {
                return Err(MetricsConfigError::Unnamed(index));
            }
            let Some(name) = MetricName::from_name(&entry.name) else {
                warnings.push(format!(
                    "unknown metric \"{}\" is left out; there are {}",
                    entry.name,
                    known_names()
                ));
                continue;
            };
            let given = entry.context_options.into_iter().map(|option| {
                let name = option.name.to_lowercase();
                let separator = if name == "labelscontext" { "," } else { "|" };
                (name, option.values.join(separator))
            });
            let spec = Self::new(name, given.collect(), &mut warnings)?;
            specs.push(spec.with_filters(&entry.include_filters, &entry.exclude_filters)?);
        }
        check_set(&specs)?;
        Ok((specs, warnings))
    }
}
