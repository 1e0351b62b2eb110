//! The client against servers that answer what a test tells them to: which requests go where, and how often.

mod fail_over;
mod fake;
mod resume;

use std::time::Duration;

use fake::Fake;

use super::{Client, Timeouts};

/// A client of these servers, in this order.
fn client(fakes: &[&Fake]) -> Client {
    client_with(fakes, Duration::from_secs(10))
}

fn client_with(fakes: &[&Fake], command: Duration) -> Client {
    let endpoints = fakes.iter().map(|fake| fake.endpoint.clone()).collect();
    Client::new(endpoints, Timeouts { dial: Duration::from_secs(10), command })
}
