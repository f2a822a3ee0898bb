//! specola-flow-server
