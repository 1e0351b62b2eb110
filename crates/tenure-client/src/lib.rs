//! The client library of Tenure.
