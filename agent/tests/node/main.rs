//! The whole agent in network namespaces, with the real datapath. Needs root and bpf().

mod addresses;
mod firewall;
mod life;
mod links;
mod outside;
mod world;
