//! Settings of TLS.

use std::path::PathBuf;

use specola_flow_server::TlsFiles;

/// TLS of the flow API's TCP address. The files are read again when they change.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ObserverTls {
    /// Certificate (PEM) of the flow API's TCP address; without it the port is plaintext.
    #[arg(long, value_name = "FILE", requires = "observer_tls_key_file")]
    pub observer_tls_cert_file: Option<PathBuf>,
    /// Key (PEM) of the certificate.
    #[arg(long, value_name = "FILE", requires = "observer_tls_cert_file")]
    pub observer_tls_key_file: Option<PathBuf>,
    /// Authorities (PEM) of client certificates: clients of the TCP address must have one. Several with commas.
    #[arg(long, value_name = "FILE", value_delimiter = ',', requires = "observer_tls_cert_file")]
    pub observer_tls_client_ca_files: Vec<PathBuf>,
    /// Lowest version of TLS that is accepted.
    #[arg(long, value_enum, default_value_t = TlsVersion::V1_3, requires = "observer_tls_cert_file")]
    pub observer_tls_min_version: TlsVersion,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[value(name = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[default]
    #[value(name = "1.3")]
    V1_3,
}

impl ObserverTls {
    /// The files; `None` without a certificate.
    pub(crate) fn files(&self) -> Option<TlsFiles> {
        let (certificate, key) =
            self.observer_tls_cert_file.clone().zip(self.observer_tls_key_file.clone())?;
        Some(TlsFiles {
            certificate,
            key,
            client_authorities: self.observer_tls_client_ca_files.clone(),
            allow_tls12: self.observer_tls_min_version == TlsVersion::V1_2,
        })
    }
}

/// TLS of metrics and probes. The files are read again when they change.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MetricsTls {
    /// Certificate (PEM) of the address of metrics and probes, which then speaks TLS 1.3 only.
    #[arg(long, value_name = "FILE", requires = "metrics_tls_key_file")]
    pub metrics_tls_cert_file: Option<PathBuf>,
    /// Key (PEM) of the certificate.
    #[arg(long, value_name = "FILE", requires = "metrics_tls_cert_file")]
    pub metrics_tls_key_file: Option<PathBuf>,
    /// Authorities (PEM) of client certificates: who asks for metrics must have one. Several with commas.
    #[arg(long, value_name = "FILE", value_delimiter = ',', requires = "metrics_tls_cert_file")]
    pub metrics_tls_client_ca_files: Vec<PathBuf>,
}

impl MetricsTls {
    /// The files; `None` without a certificate.
    pub(crate) fn files(&self) -> Option<TlsFiles> {
        let (certificate, key) = self.metrics_tls_cert_file.clone().zip(self.metrics_tls_key_file.clone())?;
        let client_authorities = self.metrics_tls_client_ca_files.clone();
        Some(TlsFiles { certificate, key, client_authorities, allow_tls12: false })
    }
}
