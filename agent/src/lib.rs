//! specola-agent
