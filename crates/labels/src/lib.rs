//! specola-labels
