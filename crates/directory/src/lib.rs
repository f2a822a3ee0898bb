//! specola-directory
