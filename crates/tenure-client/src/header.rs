//! What every answer says of itself.

use tenure_proto::etcdserverpb::ResponseHeader;
use tenure_proto::tenure::v1::Header as NativeHeader;

use crate::ids::{MemberId, Revision};

/// Who answered, and as of when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The cluster.
    pub cluster: u64,
    /// The member that answered.
    pub member: MemberId,
    /// The store's revision once the request was done.
    pub revision: Revision,
    /// The Raft term that the member was in.
    pub term: u64,
}

impl From<Option<ResponseHeader>> for Header {
    fn from(header: Option<ResponseHeader>) -> Header {
        let header = header.unwrap_or_default();
        Header {
            cluster: header.cluster_id,
            member: MemberId(header.member_id),
            revision: Revision(header.revision),
            term: header.raft_term,
        }
    }
}

impl From<Option<NativeHeader>> for Header {
    fn from(header: Option<NativeHeader>) -> Header {
        let header = header.unwrap_or_default();
        Header {
            cluster: header.cluster_id,
            member: MemberId(header.member_id),
            revision: Revision(header.revision),
            term: header.term,
        }
    }
}
