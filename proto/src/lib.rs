//! specola-proto
