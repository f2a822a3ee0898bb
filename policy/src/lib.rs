//! specola-policy
