//! The checkers against hand-written histories, against a checker that tries everything, and against their own mutations.

mod brute;
mod generate;
mod linearize;
mod mutate;
mod random;
