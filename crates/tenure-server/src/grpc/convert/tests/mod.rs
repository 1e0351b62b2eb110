//! What is asked and refused, what is answered, and laws over arbitrary messages.

mod answers;
mod laws;
mod requests;
mod watches;
