//! specola-flow
