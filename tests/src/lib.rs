//! specola-tests
