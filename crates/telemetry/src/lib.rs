//! specola-telemetry
