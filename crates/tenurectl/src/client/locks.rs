//! The requests to tenure.v1.Locks. All of them may be repeated: the service does nothing twice.

use bytes::Bytes;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::tenure::v1::locks_client::LocksClient;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::{Client, ClientError, Effect};

fn locks(channel: Channel) -> LocksClient<Channel> {
    // What a server sends is limited by what is stored.
    LocksClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// An acquire that one member works on. To drop it while it waits is to give it up.
#[derive(Debug)]
pub(crate) struct Acquiring<'a> {
    client: &'a Client,
    at: usize,
    steps: Streaming<pb::LockAcquireResponse>,
}

impl Acquiring<'_> {
    /// Waits for the next thing that the member tells of it.
    pub(crate) async fn step(&mut self) -> Result<State, ClientError> {
        let ended = || Status::unavailable("the server ended the stream");
        let told = self.steps.message().await.and_then(|told| told.ok_or_else(ended));
        let state = told.and_then(|told| told.state.ok_or_else(ended));
        match state {
            Ok(state) => Ok(state),
            Err(status) => {
                let miss = self.client.missed(self.at, status).await;
                let error = miss.into_error(Effect::Read);
                if !matches!(error, ClientError::Refused(_)) {
                    self.client.pass_over(self.at);
                }
                Err(error)
            }
        }
    }
}

impl Client {
    /// Has one member acquire a lock. It is the caller who asks again elsewhere: every try has its own attach number.
    pub(crate) async fn lock_acquire(&self, request: pb::LockAcquireRequest) -> Result<Acquiring<'_>, ClientError> {
        let send = |channel, request| async move { locks(channel).acquire(request).await };
        let (at, steps) = self.call_in_turn(Effect::Read, request, send).await?;
        Ok(Acquiring { client: self, at, steps })
    }

    /// Lets go of a lock.
    pub(crate) async fn lock_release(&self, request: pb::LockReleaseRequest) -> Result<(), ClientError> {
        let send = |channel, request| async move { locks(channel).release(request).await };
        self.call(Effect::Read, self.timeouts.command, request, send).await.map(drop)
    }

    /// Ends a request for a lock.
    pub(crate) async fn lock_cancel(&self, request: pb::LockCancelRequest) -> Result<(), ClientError> {
        let send = |channel, request| async move { locks(channel).cancel(request).await };
        self.call(Effect::Read, self.timeouts.command, request, send).await.map(drop)
    }

    /// Takes a lock away from a contender, which is named by its key and token.
    pub(crate) async fn lock_force_release(
        &self,
        request: pb::LockForceReleaseRequest,
    ) -> Result<pb::LockForceReleaseResponse, ClientError> {
        let send = |channel, request| async move { locks(channel).force_release(request).await };
        self.call(Effect::Read, self.timeouts.command, request, send).await
    }

    /// Who holds a lock and who waits for it.
    pub(crate) async fn lock_inspect(&self, name: Bytes) -> Result<pb::LockInspectResponse, ClientError> {
        let send = |channel, request| async move { locks(channel).inspect(request).await };
        let request = pb::LockInspectRequest { name, limit: 0 };
        self.call(Effect::Read, self.timeouts.command, request, send).await
    }

    /// The native locks after one, as far as they are in a page.
    pub(crate) async fn locks(&self, prefix: Bytes, after: Bytes) -> Result<pb::LockListResponse, ClientError> {
        let send = |channel, request| async move { locks(channel).list(request).await };
        let request = pb::LockListRequest { prefix, limit: 0, after };
        self.call(Effect::Read, self.timeouts.command, request, send).await
    }

    /// What became of a lock's contenders.
    pub(crate) async fn lock_why(&self, name: Bytes, limit: u32) -> Result<pb::LockWhyResponse, ClientError> {
        let send = |channel, request| async move { locks(channel).why(request).await };
        self.call(Effect::Read, self.timeouts.command, pb::LockWhyRequest { name, limit }, send).await
    }
}
