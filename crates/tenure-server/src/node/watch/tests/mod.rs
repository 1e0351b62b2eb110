//! Tests of watches as a whole, on runs fed by hand.

mod budget;
mod model;
mod shapes;
mod sharing;
mod world;
