//! Peer messages to and from openraft's types. Votes, log ids and entries travel in the encoding of the log.

use bytes::{Bytes, BytesMut};
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use tenure_core::outcome::Outcome;
use tenure_core::planted::{Bug, is_on};
use tenure_proto::tenure::peer::v1 as pb;
use tenure_proto::tenure::peer::v1::append_response;

use crate::entry_codec::{
    CodecError, decode_entry, decode_log_id, decode_vote, encode_entry, encode_log_id, encode_vote,
};
use crate::types::{Config, LogId, Vote, log_id};

fn optional_log_id(id: Option<&LogId>) -> Bytes {
    id.map_or_else(Bytes::new, log_id_bytes)
}

fn log_id_bytes(id: &LogId) -> Bytes {
    Bytes::copy_from_slice(&encode_log_id(id))
}

pub(super) fn vote_bytes(vote: &Vote) -> Bytes {
    Bytes::copy_from_slice(&encode_vote(vote))
}

fn read_optional_log_id(bytes: &[u8]) -> Result<Option<LogId>, CodecError> {
    if bytes.is_empty() { Ok(None) } else { decode_log_id(bytes).and_then(check_log_id).map(Some) }
}

/// The log ids right before and at the end of a request's entries.
pub(super) fn append_bounds(request: &AppendEntriesRequest<Config>) -> (Option<LogId>, Option<LogId>) {
    let last = request.entries.last().map(RaftEntry::log_id).or(request.prev_log_id);
    (request.prev_log_id, last)
}

pub(super) fn append_request(
    route: pb::Route,
    request: &AppendEntriesRequest<Config>,
    sequence: u64,
    acknowledged: u64,
) -> pb::AppendRequest {
    pb::AppendRequest {
        acknowledged,
        route: Some(route),
        vote: vote_bytes(&request.vote),
        prev_log_id: optional_log_id(request.prev_log_id.as_ref()),
        entries: request.entries.iter().map(encode_entry).collect(),
        commit: optional_log_id(request.leader_commit.as_ref()),
        sequence,
    }
}

/// Reads a request and checks what consensus takes for granted: a leader's vote, and entries that follow each other.
pub(super) fn read_append_request(message: pb::AppendRequest) -> Result<AppendEntriesRequest<Config>, CodecError> {
    let request = AppendEntriesRequest::<Config> {
        vote: read_leaders_vote(&message.vote, message.route.as_ref())?,
        prev_log_id: read_optional_log_id(&message.prev_log_id)?,
        entries: message.entries.into_iter().map(decode_entry).collect::<Result<Vec<_>, _>>()?,
        leader_commit: read_optional_log_id(&message.commit)?,
    };
    let mut previous = request.prev_log_id;
    for entry in &request.entries {
        let id = check_log_id(entry.log_id())?;
        let term = |id: LogId| id.committed_leader_id().term;
        let follows = id.index() == previous.map_or(0, |before| before.index() + 1)
            && previous.is_none_or(|before| term(before) <= term(id))
            && term(id) <= request.vote.leader_id.term;
        if !follows {
            return Err(invalid("append request", "its entries do not follow each other"));
        }
        previous = Some(id);
    }
    Ok(request)
}

fn invalid(what: &'static str, why: &str) -> CodecError {
    CodecError::Invalid { what, why: why.to_owned() }
}

/// Terms and indexes are counted up by consensus: the largest number would wrap.
fn check_log_id(id: LogId) -> Result<LogId, CodecError> {
    if id.index() == u64::MAX || id.committed_leader_id().term == u64::MAX {
        return Err(invalid("log id", "it leaves no room to count on"));
    }
    Ok(id)
}

pub(super) fn read_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let vote = decode_vote(bytes)?;
    if vote.leader_id.term == u64::MAX {
        return Err(invalid("vote", "its term leaves no room to count on"));
    }
    Ok(vote)
}

/// Reads a vote that its owner must have sent. Consensus compares what an unelected leader says with what others say
/// before it refuses its vote, and could then not follow the right one any more.
fn read_own_vote(bytes: &[u8], route: Option<&pb::Route>) -> Result<Vote, CodecError> {
    let vote = read_vote(bytes)?;
    if route.is_none_or(|route| route.from != vote.leader_id.voted_for) {
        return Err(invalid("vote", "it is not the sender's own"));
    }
    Ok(vote)
}

/// Reads the vote of a leader, which must have sent it.
pub(super) fn read_leaders_vote(bytes: &[u8], route: Option<&pb::Route>) -> Result<Vote, CodecError> {
    let vote = read_own_vote(bytes, route)?;
    if vote.committed { Ok(vote) } else { Err(invalid("request", "its vote is no leader's")) }
}

pub(super) fn append_response(result: &StreamAppendResult<Config>, awaits_commits: bool) -> pb::AppendResponse {
    let result = match result {
        Ok(matched) => append_response::Result::Matched(pb::Matched { log_id: optional_log_id(matched.as_ref()) }),
        Err(StreamAppendError::Conflict(expected)) => {
            append_response::Result::Conflict(pb::Conflict { expected: log_id_bytes(expected), found: Bytes::new() })
        }
        Err(StreamAppendError::HigherVote(vote)) => append_response::Result::HigherVote(vote_bytes(vote)),
    };
    pb::AppendResponse { sequence: 0, result: Some(result), awaits_commits }
}

pub(super) fn read_append_response(message: &pb::AppendResponse) -> Result<StreamAppendResult<Config>, CodecError> {
    match &message.result {
        Some(append_response::Result::Matched(matched)) => Ok(Ok(read_optional_log_id(&matched.log_id)?)),
        Some(append_response::Result::Conflict(conflict)) => {
            Ok(Err(StreamAppendError::Conflict(decode_log_id(&conflict.expected)?)))
        }
        Some(append_response::Result::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(read_vote(vote)?))),
        None => Err(CodecError::Truncated { what: "append response", missing: 1 }),
    }
}

pub(super) fn vote_request(route: pb::Route, request: &VoteRequest<Config>) -> pb::VoteRequest {
    pb::VoteRequest {
        route: Some(route),
        vote: vote_bytes(&request.vote),
        last_log_id: optional_log_id(request.last_log_id.as_ref()),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn read_vote_request(message: &pb::VoteRequest) -> Result<VoteRequest<Config>, CodecError> {
    let vote = read_own_vote(&message.vote, message.route.as_ref())?;
    let mut last_log_id = read_optional_log_id(&message.last_log_id)?;
    if is_on(Bug::CarelessVoter) {
        last_log_id = Some(log_id(vote.leader_id.term, u64::MAX));
    }
    let mut request = VoteRequest::new(vote, last_log_id);
    request.leadership_transfer = message.leadership_transfer;
    Ok(request)
}

pub(super) fn vote_response(response: &VoteResponse<Config>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: vote_bytes(&response.vote),
        granted: response.vote_granted,
        last_log_id: optional_log_id(response.last_log_id.as_ref()),
    }
}

pub(super) fn read_vote_response(message: &pb::VoteResponse) -> Result<VoteResponse<Config>, CodecError> {
    let last_log_id = read_optional_log_id(&message.last_log_id)?;
    Ok(VoteResponse::new(read_vote(&message.vote)?, last_log_id, message.granted))
}

pub(super) fn transfer_request(route: pb::Route, request: &TransferLeaderRequest<Config>) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        route: Some(route),
        from_leader: vote_bytes(request.from_leader()),
        target: *request.to_node_id(),
        last_log_id: optional_log_id(request.last_log_id()),
    }
}

pub(super) fn read_transfer_request(
    message: &pb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<Config>, CodecError> {
    let last_log_id = read_optional_log_id(&message.last_log_id)?;
    let from_leader = read_own_vote(&message.from_leader, message.route.as_ref())?;
    Ok(TransferLeaderRequest::new(from_leader, message.target, last_log_id))
}

pub(super) fn outcome(outcome: &Outcome) -> Bytes {
    let mut bytes = BytesMut::new();
    outcome.encode(&mut bytes);
    bytes.freeze()
}
