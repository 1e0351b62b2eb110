//! grpc.health.v1.Health. The service answers while the server serves; whether the cluster is well is `/health`'s to say.

use std::collections::HashMap;
use std::pin::Pin;

use tenure_proto::grpc::health::v1::health_check_response::ServingStatus;
use tenure_proto::grpc::health::v1::health_server::Health;
use tenure_proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// See the module's header.
pub(super) struct HealthService;

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if request.into_inner().service.is_empty() {
            Ok(Response::new(serving()))
        } else {
            Err(Status::not_found("unknown service"))
        }
    }

    async fn list(&self, _request: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Ok(Response::new(HealthListResponse { statuses: HashMap::from([(String::new(), serving())]) }))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.into_inner().service.is_empty();
        let status = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let first = HealthCheckResponse { status: status.into() };
        // The status never changes while the server runs; the stream ends with the connection.
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(tokio_stream::pending()))))
    }
}
