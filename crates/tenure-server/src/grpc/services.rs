//! The services of the client port as they are gathered, and server reflection, which tells of them.
//!
//! Reflection lists what is served and nothing else, so it is made last, of the services that were added.

use std::convert::Infallible;

use axum::response::IntoResponse;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};
use tower::Service;

/// See the module's header.
#[derive(Default)]
pub(super) struct Services {
    routes: Routes,
    names: Vec<&'static str>,
}

impl Services {
    /// Adds a service.
    pub(super) fn add<S>(self, service: S) -> Services
    where
        S: Service<http::Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        let mut names = self.names;
        names.push(S::NAME);
        Services { routes: self.routes.add_service(service), names }
    }

    /// The routes of all services, and of both versions of reflection.
    pub(super) fn routes(self) -> Routes {
        match reflecting(self.routes.clone(), &self.names) {
            Ok(routes) => routes,
            Err(error) => {
                tracing::error!(%error, "server reflection is not served: its descriptors are unusable");
                self.routes
            }
        }
    }
}

fn reflecting(routes: Routes, names: &[&'static str]) -> Result<Routes, Error> {
    let descriptors = || {
        let builder = Builder::configure().register_encoded_file_descriptor_set(tenure_proto::FILE_DESCRIPTOR_SET);
        names.iter().fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let v1 = descriptors().with_service_name("grpc.reflection.v1.ServerReflection").build_v1()?;
    let v1alpha = descriptors().with_service_name("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?;
    Ok(routes.add_service(v1).add_service(v1alpha))
}
