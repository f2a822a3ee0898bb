//! Runs the kernel programs on single packets (`BPF_PROG_TEST_RUN`) and looks at the verdict, the events and the maps.
//!
//! Needs root and bpf(2); nothing is attached and nothing pinned.

mod basics;
mod connections;
mod delivery;
mod folding;
mod fragments;
mod garbage;
mod harness;
mod headers;
mod host;
mod oracle;
mod records;
mod replay;
mod rules;
mod sources;
