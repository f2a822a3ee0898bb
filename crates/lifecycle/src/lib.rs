//! specola-lifecycle
