//! specola-datapath
