//! specola-testkit
