//! The tests of the state machine, in one binary: encodings, golden scripts, and laws checked against a naive model.

#[cfg(test)]
mod codec;
#[cfg(test)]
mod strategies;
