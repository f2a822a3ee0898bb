//! What the build script made of `proto/`.
#![expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::large_enum_variant,
    clippy::map_err_ignore,
    clippy::use_self,
    reason = "generated code follows its generators' style"
)]

/// Package `flow`: flows, filters, agent and debug events.
pub mod flow {
    tonic::include_proto!("flow");
    include!(concat!(env!("OUT_DIR"), "/flow.serde.rs"));
}

/// Package `observer`: the service that clients read flows from.
pub mod observer {
    tonic::include_proto!("observer");
    include!(concat!(env!("OUT_DIR"), "/observer.serde.rs"));
}

/// Package `peer`: discovery of nodes.
pub mod peer {
    tonic::include_proto!("peer");
    include!(concat!(env!("OUT_DIR"), "/peer.serde.rs"));
}

/// Package `relay`: states of nodes.
pub mod relay {
    tonic::include_proto!("relay");
    include!(concat!(env!("OUT_DIR"), "/relay.serde.rs"));
}

/// Our own packages.
pub mod specola {
    /// Package `specola.v1`: the node API and flow extensions.
    pub mod v1 {
        tonic::include_proto!("specola.v1");
        include!(concat!(env!("OUT_DIR"), "/specola.v1.serde.rs"));
    }
}
