//! Whom a run asks: addresses, the leader among them, connections.

use std::time::Duration;

use tenure_proto::etcdserverpb as pb;
use tokio::time::timeout;

use crate::caller::Caller;
use crate::failure::{Code, Error, Failure};

const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// For a connection and for what is asked before a run.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// The addresses that a run uses: all, or that of the leader alone.
pub(crate) async fn resolve(endpoints: &[String], leader_only: bool) -> Result<Vec<String>, Error> {
    if endpoints.is_empty() {
        return Err(Error::Settings("a run needs an endpoint".to_owned()));
    }
    if !leader_only {
        return Ok(endpoints.to_vec());
    }
    let mut last = None;
    for endpoint in endpoints {
        match leads(endpoint).await {
            Ok(true) => return Ok(vec![endpoint.clone()]),
            Ok(false) => {}
            Err(failure) => last = Some(failure),
        }
    }
    let failure = last.unwrap_or_else(|| Failure::answer("no endpoint leads the cluster"));
    Err(Error::Preparation { doing: "looking for the leader", failure })
}

/// Whether it is the leader that serves at an address.
async fn leads(endpoint: &str) -> Result<bool, Failure> {
    let asked = async {
        let caller = Caller::connect(endpoint).await?;
        let status: pb::StatusResponse = caller.call(STATUS, &pb::StatusRequest::default()).await?;
        Ok(status.header.is_some_and(|header| header.member_id == status.leader))
    };
    within(ANSWER_PATIENCE, asked).await
}

/// So many connections, to the endpoints in turn.
pub(crate) async fn connect(endpoints: &[String], count: usize) -> Result<Vec<Caller>, Error> {
    let mut callers = Vec::with_capacity(count);
    for endpoint in endpoints.iter().cycle().take(count) {
        let caller = within(ANSWER_PATIENCE, Caller::connect(endpoint)).await;
        callers.push(caller.map_err(Error::preparing("connecting"))?);
    }
    Ok(callers)
}

/// A request with an end to waiting for it.
pub(crate) async fn within<T>(
    patience: Duration,
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout(patience, request).await.unwrap_or_else(|_| Err(Failure::new(Code::Patience, format!("{patience:?}"))))
}
