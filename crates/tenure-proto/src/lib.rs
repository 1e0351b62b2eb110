//! The generated gRPC code: etcd's v3 API, the health protocol, Tenure's own API, and what its members say to each other.
//!
//! The code under `generated/` is committed, so that building Tenure needs neither protoc nor the generator;
//! `tests/proto_fresh.rs` makes it from `proto/` and proves that it is fresh. Modules mirror the protobuf packages.
//! Every `bytes` field is a [`bytes::Bytes`]: a decoded message shares the buffer it was read from.
//!
//! No logic lives here. What a message means is decided in `tenure-server` and `tenure-raft`.
#![allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::wildcard_imports,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code follows its generator's style"
)]

/// etcd's key-values and events.
pub mod mvccpb {
    include!("generated/mvccpb.rs");
}

/// etcd's users, roles and permissions.
pub mod authpb {
    include!("generated/authpb.rs");
}

/// etcd's services: KV, Watch, Lease, Cluster, Maintenance and Auth.
pub mod etcdserverpb {
    include!("generated/etcdserverpb.rs");
}

/// etcd's lock service.
pub mod v3lockpb {
    include!("generated/v3lockpb.rs");
}

/// etcd's election service.
pub mod v3electionpb {
    include!("generated/v3electionpb.rs");
}

/// Protocols of gRPC itself.
pub mod grpc {
    /// Health checks.
    pub mod health {
        /// Version 1, the only one.
        pub mod v1 {
            include!("generated/grpc.health.v1.rs");
        }
    }
}

/// Tenure's own protocols.
pub mod tenure {
    /// Between the members of a cluster.
    pub mod peer {
        /// Version 1.
        pub mod v1 {
            include!("generated/tenure.peer.v1.rs");
        }
    }

    /// For clients, version 1.
    pub mod v1 {
        include!("generated/tenure.v1.rs");
    }
}

/// The descriptors of everything above, as an encoded `google.protobuf.FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");
