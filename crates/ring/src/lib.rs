//! specola-ring
