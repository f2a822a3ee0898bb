//! specola-sandbox
